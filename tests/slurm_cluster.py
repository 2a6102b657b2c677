"""A Slurm cluster on the loopback interface: controller and three nodes on this machine.

Needs root and the distribution's packages slurmctld, slurmd, slurm-client and munge. Nothing is
left behind: daemons are stopped, and the configuration that this module wrote is removed, because
with a configuration but without a controller every Slurm command waits.

    python tests/slurm_cluster.py          # a cluster until Ctrl-C, to try things by hand
    python tests/slurm_cluster.py --stop   # clears away what a killed test session left behind
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = Path("/etc/slurm")  # Slurm's clients ignore SLURM_CONF inside a job of the plugin
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "munged", "munge", "runuser")
NODES = ("cpu1", "cpu2", "gpu1")
MARK = "# written by tests/slurm_cluster.py, state in "


def obstacle() -> str:
    """Return why no cluster can be started here; empty if one can.

    What a killed test session left behind is cleared away first.
    """
    if os.geteuid() != 0:
        return "a Slurm cluster for tests needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    if (SETTINGS / "slurm.conf").exists():
        first = (SETTINGS / "slurm.conf").read_text().splitlines()[0]
        if first.startswith(MARK):
            folder = Path(first.removeprefix(MARK))
            if alive(read_pid(folder / "owner.pid")):
                return "the cluster of another test session runs on this machine"
            Cluster(folder).stop()
            return ""
        return f"{SETTINGS / 'slurm.conf'} is there: this machine belongs to a cluster"
    return ""


def run(*command: str, **options) -> str:
    """Run a command for at most 20 s and return what it printed."""
    process = subprocess.run(command, capture_output=True, text=True, timeout=20, **options)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {process.stdout}{process.stderr}")
    return process.stdout


def configuration(folder: Path) -> str:
    """Return slurm.conf.

    A lost node is noticed after 10 s (SlurmdTimeout); a job is queued again after 10 s
    (cred_expire); finished jobs stay visible to squeue for 30 minutes (MinJobAge).
    """
    host = socket.gethostname().split(".")[0]
    lines = f"""
{MARK}{folder}
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=1800
KillWait=3
SlurmdTimeout=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
GresTypes=gpu
""".strip().splitlines()
    for k, name in enumerate(NODES):
        gres = " Gres=gpu:2" if name == "gpu1" else ""
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={17001 + k} CPUs=4 "
            f"RealMemory=64000{gres} State=UNKNOWN"
        )
    lines += [
        "PartitionName=cpu Nodes=cpu1,cpu2 Default=YES State=UP",
        "PartitionName=gpu Nodes=gpu1 State=UP",
    ]
    return "\n".join(lines) + "\n"


class Cluster:
    """A running cluster.

    Attributes:
        folder: state, logs and process ids of its daemons.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.munged: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the daemons and wait until all nodes are idle.

        Raises:
            RuntimeError: if they are not within 30 s.
        """
        (self.folder / "owner.pid").write_text(str(os.getpid()))
        self._start_munge()
        for path in ("state", *(f"spool/{name}" for name in NODES)):
            (self.folder / path).mkdir(parents=True)
        devices = []
        for k in range(2):  # Slurm wants a file for every GPU; a regular one will do
            devices.append(self.folder / f"gpu{k}")
            devices[-1].touch()
        SETTINGS.mkdir(exist_ok=True)
        (SETTINGS / "slurm.conf").write_text(configuration(self.folder))
        (SETTINGS / "gres.conf").write_text(
            "".join(f"NodeName=gpu1 Name=gpu File={path}\n" for path in devices)
        )
        run("slurmctld")
        for name in NODES:
            self.start_node(name)
        for _ in range(150):
            with contextlib.suppress(RuntimeError):
                if run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split() == list(NODES):
                    return
            time.sleep(0.2)
        raise RuntimeError(
            f"the nodes do not come up: {(self.folder / 'slurmctld.log').read_text()}"
        )

    def _start_munge(self) -> None:
        """Start munge, with a key of its own, unless it runs."""
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        for path in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
            Path(path).mkdir(exist_ok=True)
            shutil.chown(path, "munge", "munge")
        key = Path("/etc/munge/munge.key")
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            shutil.chown(key, "munge", "munge")
            key.chmod(0o400)
        command = ["runuser", "-u", "munge", "--", "munged", "--foreground"]
        self.munged = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(50):
            if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("munge does not start")

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        run("slurmd", "-N", name)

    def lose_node(self, name: str) -> None:
        """Kill a node's daemon and whatever runs on it, as a power cut would."""
        jobs = run("squeue", "-h", "-w", name, "-o", "%A").split()
        with contextlib.suppress(ProcessLookupError):
            os.kill(read_pid(self.folder / f"{name}.pid"), signal.SIGKILL)
        for job in jobs:
            for pid in job_processes(job):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons, remove the configuration."""
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            run("scancel", "--user=root")
            # A process that was stopped when its job ended may have outlived the job.
            for job in run("squeue", "-h", "-t", "all", "-o", "%A").split():
                for pid in job_processes(job):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        daemons = [self.folder / f"{name}.pid" for name in ("slurmctld", *NODES)]
        pids = [pid for pid in map(read_pid, daemons) if pid]
        for pid in pids:  # the controller ends its helper process on SIGTERM
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 10
        while time.monotonic() < end and any(alive(pid) for pid in pids):
            time.sleep(0.1)
        if self.munged is not None:
            os.killpg(self.munged.pid, signal.SIGTERM)
            self.munged.wait(timeout=10)
        for name in ("slurm.conf", "gres.conf"):
            (SETTINGS / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def read_pid(path: Path) -> int:
    """Return the process id in a file; 0 without one."""
    return int(path.read_text()) if path.exists() else 0


def alive(pid: int) -> bool:
    """Return whether a process runs (a zombie does not)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def job_processes(job: str) -> list[int]:
    """Return the process ids of a job, known by the variables that Slurm gave them."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), b"SLURM_CLUSTER_NAME=tests"}
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    steps = subprocess.run(
        ["pgrep", "-f", rf"^slurmstepd: \[{job}\."], capture_output=True, text=True
    ).stdout.split()
    return [*map(int, steps), *found]


@contextlib.contextmanager
def cluster():
    """Start a cluster and stop it afterwards, whatever happens.

    Yields:
        The cluster.
    """
    started = Cluster(Path(tempfile.mkdtemp(prefix="slurm")))
    try:
        started.start()
        yield started
    finally:
        started.stop()


if __name__ == "__main__":
    reason = obstacle()
    if "--stop" in sys.argv:
        raise SystemExit(0)
    if reason:
        raise SystemExit(reason)
    with cluster() as running, contextlib.suppress(KeyboardInterrupt):
        print(run("sinfo", "-N", "-l"), f"logs in {running.folder}; Ctrl-C stops it", sep="\n")
        signal.pause()
