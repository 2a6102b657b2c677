"""The workflow on a real Slurm: jobs that fail, time out, are cancelled or lose their node."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from checkouts import checkout, snakemake
from conftest import ROOT
from test_workflow import digests

PLUGIN = Path(sys.prefix) / "slurm"  # make test puts the plugin there, beside the environment
RUN = "results/runs/digits/n8-balanced-subset0/myrtle5-width4-ntk-he-one_hot-float32"
FINAL = (  # four trainings, and the job that collects them
    f"{RUN}/gradient_flow-tolerance0.01-lambda1_T0.1to100-4per_decade/ensemble4/warm_start.json"
)
ENDED = ["TIMEOUT", "FAILED", "CANCELLED"]
LIMIT = 540  # seconds for the cluster; bounded, because a shared machine can be slow

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def cluster():
    """A running cluster, or a skip that says why there is none."""
    if not os.environ.get("SPEEDLIMITS_SLURM"):
        pytest.skip("starts a real Slurm, up to 10 minutes: make test-slurm")
    reason = slurm_cluster.obstacle()
    if not reason and not (PLUGIN / "snakemake_executor_plugin_slurm").is_dir():
        reason = f"no Slurm plugin in {PLUGIN}: make test installs requirements-slurm.txt there"
    if reason:
        if os.environ.get("SPEEDLIMITS_SLURM") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    with slurm_cluster.cluster() as started:
        yield started


def adapt(folder, **changes):
    """Adapt the shipped profile as a user would: short waits."""
    path = folder / "profiles/slurm/config.yaml"
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    profile |= {
        "slurm-init-seconds-before-status-checks": 2,
        "seconds-between-status-checks": 2,
        "latency-wait": 10,
        **changes,
    }
    path.write_text(yaml.safe_dump(profile))


@contextlib.contextmanager
def submitted(folder, *arguments):
    """Start snakemake on the cluster; yield the process, stop it and what it started afterwards."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    command += ["--workflow-profile", "profiles/slurm"]
    paths = f"{PLUGIN}:{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with open(folder / "snakemake.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)


def finish(process, folder):
    """Wait for snakemake and return what it printed."""
    try:
        process.wait(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        queue = slurm_cluster.run("squeue", "-t", "all", "-o", "%A %T %r %N %k")
        pytest.fail(f"not done:\n{queue}\n{(folder / 'snakemake.log').read_text()[-5000:]}")
    return (folder / "snakemake.log").read_text()


def jobs(state):
    """Return (id, node, rule) of the cluster's jobs in a state; "all" for any."""
    lines = slurm_cluster.run("squeue", "-h", "-t", state, "-o", "%A|%N|%k").splitlines()
    return [tuple(line.split("|")) for line in lines]


# In _take_snapshot of scripts/pipeline/trajectory.py, when a checkpoint has been written.
STORED = "        self._checkpoint()\n\n    @functools.cached_property"
FREEZE = f"""        self._checkpoint()
        if Path("freeze").exists() and self.next_snapshot == int(Path("freeze").read_text()):
            os.kill(os.getpid(), {signal.SIGSTOP:d})

    @functools.cached_property"""


def let_trainings_freeze(folder):
    """Make every training stop itself at the snapshot whose number the file ``freeze`` holds."""
    module = folder / "scripts/pipeline/trajectory.py"
    text = module.read_text()
    assert STORED in text
    module.write_text(text.replace(STORED, FREEZE))


def frozen_trainings(count):
    """Wait until that many trainings have stopped themselves; return id -> node."""
    found, end = {}, time.monotonic() + LIMIT
    while len(found) < count and time.monotonic() < end:
        for job, node, rule in jobs("RUNNING"):
            if "train" in rule and any(map(stopped, training_processes(job))):
                found[job] = node
        time.sleep(0.1)
    assert len(found) == count, jobs("all")
    return found


def stopped(pid):
    """Return whether SIGSTOP holds a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    return False


def training_processes(job):
    """Return the process ids of the training script of a job."""
    found = []
    for pid in slurm_cluster.job_processes(job):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"train.py") for word in words):
                found.append(pid)
    return found


def send(job, number):
    """Send a signal to the training script of a job."""
    for pid in training_processes(job):
        os.kill(pid, number)


def lose_node_of(cluster, job, node, requeue):
    """Take a job's node away, and bring it back; requeue: Slurm may start the job again.

    The lost node takes along whatever else runs there.
    """
    slurm_cluster.run("scontrol", "update", f"JobId={job}", f"Requeue={requeue:d}")
    cluster.lose_node(node)
    wait_until(lambda: states()[job] != "RUNNING")
    assert requeue or states()[job] == "NODE_FAIL"
    cluster.start_node(node)


def hurt_all(cluster, trainings):
    """Let one of four frozen trainings time out, kill one, cancel one, take the last one's node."""
    timed_out, failed, cancelled, lost = trainings
    slurm_cluster.run("scontrol", "update", f"JobId={timed_out}", "TimeLimit=1")
    send(failed, signal.SIGKILL)  # as the system does for lack of memory
    slurm_cluster.run("scancel", cancelled)
    wait_until(lambda: {states()[job] for job in trainings} >= set(ENDED))
    assert [states()[job] for job in (timed_out, failed, cancelled)] == ENDED
    lose_node_of(cluster, lost, trainings[lost], requeue=False)


def wait_until(condition):
    """Wait for something to become true."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, jobs("all")
        time.sleep(0.5)


def test_faults_are_repaired_and_results_are_those_of_a_local_run(cluster, tmp_path):
    config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text())
    config["studies"]["dataset_size"] = {"vary": {"n": [8]}, "realisations": 4}
    (tmp_path / "config").mkdir()
    overlay = tmp_path / "config/overlay.yaml"
    overlay.write_text(yaml.safe_dump(config))
    local, folder = tmp_path / "local", tmp_path / "cluster"
    local.mkdir()
    let_trainings_freeze(checkout(local))
    # What comes before the trainings is made here, which saves three jobs one after another.
    process = snakemake(local, f"{RUN}/time_unit.json", configfile=overlay)
    assert process.returncode == 0, process.stderr[-3000:]
    shutil.copytree(local, folder)

    # Without any second attempt all four jobs fail half-way, and so does the command.
    (folder / "freeze").write_text("6")
    adapt(folder, **{"retries": 0, "slurm-requeue": None})
    with submitted(folder, FINAL, "--configfile", str(overlay)) as process:
        hurt_all(cluster, frozen_trainings(4))
        log = finish(process, folder)
    assert process.returncode != 0, log[-5000:]
    assert not list((folder / "results").rglob("snapshots.json"))

    # The same command, with the shipped retries, does the rest in spite of two more faults.
    (folder / "freeze").write_text("9")
    adapt(folder)
    with submitted(folder, FINAL, "--configfile", str(overlay)) as process:
        trainings = frozen_trainings(4)
        (folder / "freeze").unlink()  # what starts again goes on
        failed, lost, *others = trainings
        send(failed, signal.SIGKILL)
        wait_until(lambda: states()[failed] == "FAILED")
        # The others stand still meanwhile: none is taken along just as it ends, and starts anew.
        lose_node_of(cluster, lost, trainings[lost], requeue=True)
        for job in others:
            send(job, signal.SIGCONT)
        log = finish(process, folder)
        after = states()
    assert process.returncode == 0, log[-5000:]
    assert after[lost] == "COMPLETED"  # Slurm queued it again
    assert "Trying to restart job" in log
    again = snakemake(folder, "-n", FINAL, configfile=overlay)
    assert "Nothing to be done" in again.stdout + again.stderr
    process = snakemake(local, FINAL, configfile=overlay)
    assert process.returncode == 0, process.stderr[-3000:]
    assert digests(folder) == digests(local)
    logs = [path.read_text() for path in (folder / "results/logs").rglob("train?.log")]
    assert len(logs) == 4
    for log in logs:  # of the last attempt
        assert "continuing an interrupted run at time" in log and "snapshot 1 of" not in log, log


def states():
    """Return id -> state of every job that the controller remembers."""
    text = slurm_cluster.run("squeue", "-h", "-t", "all", "-o", "%A|%T")
    return dict(line.split("|") for line in text.splitlines())


PROBE = """
rule all:
    input: expand("{rule}{k}.txt", rule=["with_gpu", "without", "small"], k=range(2))
rule with_gpu:
    output: "with_gpu{k}.txt"
    resources: gpu=1, mem_mb=100, runtime=2
    shell: "echo $SLURM_JOB_PARTITION ${{SLURM_GPUS_ON_NODE:-0}} $SLURM_JOB_ID > {output}"
rule without:
    output: "without{k}.txt"
    resources: gpu=0, mem_mb=100, runtime=2
    shell: "echo $SLURM_JOB_PARTITION ${{SLURM_GPUS_ON_NODE:-0}} $SLURM_JOB_ID > {output}"
rule small:
    output: "small{k}.txt"
    resources: mem_mb=100, runtime=2
    shell: "echo $SLURM_JOB_PARTITION ${{SLURM_GPUS_ON_NODE:-0}} $SLURM_JOB_ID > {output}"
"""


def test_gpu_jobs_go_to_gpu_nodes_only_and_small_jobs_share_one(cluster, tmp_path):
    folder = checkout(tmp_path)
    adapt(folder)
    path = folder / "profiles/slurm/config.yaml"
    profile = yaml.safe_load(path.read_text())
    del profile["set-resources"]
    profile |= {"groups": {"small": "figures"}}  # the shipped size of the group figures
    path.write_text(yaml.safe_dump(profile))
    (folder / "Snakefile").write_text(PROBE)
    with submitted(folder) as process:
        log = finish(process, folder)
    assert process.returncode == 0, log[-5000:]

    def told(rule):
        return [(folder / f"{rule}{k}.txt").read_text().split() for k in range(2)]

    assert {tuple(line[:2]) for line in told("with_gpu")} == {("gpu", "1")}
    assert {tuple(line[:2]) for line in told("without")} == {("cpu", "0")}
    assert len({line[2] for line in told("small")}) == 1
    assert len({line[2] for line in told("without")}) == 2
