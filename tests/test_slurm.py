"""The workflow on a real Slurm: jobs that fail, time out, are cancelled or lose their node."""

import contextlib
import os
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
FINAL = "results/studies/dataset_size/speed_limits.csv"
ENDED = ["TIMEOUT", "FAILED", "CANCELLED"]
LIMIT = 540  # seconds for the cluster; bounded, because a shared machine can be slow

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def cluster():
    """A running cluster, or a skip that says why there is none."""
    if not os.environ.get("SPEEDLIMITS_SLURM"):
        pytest.skip("starts a real Slurm, about 8 minutes: make test-slurm")
    reason = slurm_cluster.obstacle()
    if not reason and not (PLUGIN / "snakemake_executor_plugin_slurm").is_dir():
        reason = f"no Slurm plugin in {PLUGIN}: make test installs requirements-slurm.txt there"
    if reason:
        pytest.skip(reason)
    with slurm_cluster.cluster() as started:
        yield started


def adapt(folder, **changes):
    """Adapt the shipped profile as a user would: no account, squeue for status, short waits."""
    path = folder / "profiles/slurm/config.yaml"
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    del profile["default-resources"]
    profile |= {
        "slurm-no-account": True,
        "slurm-status-command": "squeue",  # sacct needs a database
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


def frozen_trainings(count):
    """Wait for that many trainings, stop each as soon as its script runs; return id -> node."""
    found, end = {}, time.monotonic() + LIMIT
    while len(found) < count and time.monotonic() < end:
        for job, node, rule in jobs("RUNNING"):
            if "train" in rule and job not in found and training_processes(job):
                for pid in training_processes(job):
                    os.kill(pid, signal.SIGSTOP)
                found[job] = node
        time.sleep(0.1)
    assert len(found) == count, jobs("all")
    return found


def training_processes(job):
    """Return the process ids of the training script of a job."""
    found = []
    for pid in slurm_cluster.job_processes(job):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"train.py") for word in words):
                found.append(pid)
    return found


def hurt(cluster, trainings, requeue):
    """Let one of four frozen trainings time out, kill one, cancel one, take the last one's node.

    Args:
        cluster: the running cluster.
        trainings: job id -> node.
        requeue: whether Slurm may start the lost node's job again.

    Returns:
        The id of the lost node's job.
    """
    lost, node = list(trainings.items())[-1]
    # The lost node takes along whatever else runs there; the others are hurt one by one.
    timed_out, failed, cancelled = list(trainings)[:-1]
    slurm_cluster.run("scontrol", "update", f"JobId={lost}", f"Requeue={requeue:d}")
    slurm_cluster.run("scontrol", "update", f"JobId={timed_out}", "TimeLimit=1")
    for pid in training_processes(failed):
        os.kill(pid, signal.SIGKILL)
    slurm_cluster.run("scancel", cancelled)
    wait_until(lambda: {states()[job] for job in trainings} >= set(ENDED))
    assert [states()[job] for job in (timed_out, failed, cancelled)] == ENDED
    cluster.lose_node(node)
    wait_until(lambda: states()[lost] != "RUNNING")
    assert requeue or states()[lost] == "NODE_FAIL"
    cluster.start_node(node)
    return lost


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
    for name in ("local", "cluster"):
        (tmp_path / name).mkdir()
    local, folder = checkout(tmp_path / "local"), checkout(tmp_path / "cluster")

    # Without any second attempt all four jobs fail, and so does the command.
    adapt(folder, **{"retries": 0, "slurm-requeue": None})
    with submitted(folder, FINAL, "--configfile", str(overlay)) as process:
        hurt(cluster, frozen_trainings(4), requeue=False)
        log = finish(process, folder)
    assert process.returncode != 0, log[-5000:]
    assert not list((folder / "results").rglob("snapshots.json"))

    # The same command, with the shipped retries and the same four faults again, does the rest.
    adapt(folder)
    with submitted(folder, FINAL, "--configfile", str(overlay)) as process:
        lost = hurt(cluster, frozen_trainings(4), requeue=True)
        log = finish(process, folder)
        after = states()
    assert process.returncode == 0, log[-5000:]
    assert after[lost] == "COMPLETED"  # Slurm queued it again
    assert log.count("Trying to restart job") >= 3
    again = snakemake(folder, "-n", FINAL, configfile=overlay)
    assert "Nothing to be done" in again.stdout + again.stderr
    process = snakemake(local, FINAL, configfile=overlay)
    assert process.returncode == 0, process.stderr[-3000:]
    assert digests(folder) == digests(local)


def states():
    """Return id -> state of every job that the controller remembers."""
    text = slurm_cluster.run("squeue", "-h", "-t", "all", "-o", "%A|%T")
    return dict(line.split("|") for line in text.splitlines())


PROBE = """
rule all:
    input: expand("{rule}{k}.txt", rule=["with_gpu", "without", "small"], k=range(3))
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
        return [(folder / f"{rule}{k}.txt").read_text().split() for k in range(3)]

    assert {tuple(line[:2]) for line in told("with_gpu")} == {("gpu", "1")}
    assert {tuple(line[:2]) for line in told("without")} == {("cpu", "0")}
    assert len({line[2] for line in told("small")}) == 1
    assert len({line[2] for line in told("without")}) == 3
