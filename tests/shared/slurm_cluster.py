"""A private SLURM on this machine: a controller and several emulated nodes, for the tests that need the real thing.

Nothing outside a directory is touched, and no service manager is needed. Authentication, controller and nodes are processes
of this session, found again by their pid files.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NUM_NODES = 4
CPUS = 4
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
# cred_expire is also the time after which a requeued job may start again: 120 s unless it is set, and never below 5.
_CONFIGURATION = """
ClusterName=widestep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={munge}/socket,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=10
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=8
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def reason_to_skip() -> str | None:
    """Say why SLURM cannot be started here, or None."""
    if os.geteuid() != 0:
        return "SLURM's daemons are started as root"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"SLURM is not installed (slurm-wlm, munge): {', '.join(missing)}"
    try:
        pwd.getpwnam("munge")
    except KeyError:
        return "there is no user munge"
    return None


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@dataclass(frozen=True)
class SlurmCluster:
    """A running SLURM.

    Parameters
    ----------
    place
        Its directory.
    environment
        Variables that its commands need.
    """

    place: Path
    environment: Mapping[str, str]

    def say(self, *words: object) -> str:
        """Run one of SLURM's commands and return what it says."""
        command = [str(word) for word in words]
        done = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise AssertionError(f"{command}: {done.stderr}")
        return done.stdout.strip()

    def submit(self, script: str, *options: object, cwd: Path, **variables: str) -> str:
        """Submit a job script and return the job's number; its output lies in `cwd`/out."""
        path = cwd / "script.sh"
        path.write_text("#!/bin/bash\n" + script)
        command = ["sbatch", "--parsable", "--open-mode=append", "--output=out", *map(str, options), str(path)]
        env = {**self.environment, **variables}
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=600, check=True)
        return done.stdout.strip()

    def states(self, job: str) -> list[str]:
        """Return the states of a job's tasks, as far as SLURM still knows them as queued or running."""
        lines = self.say("squeue", "--noheader", "--array", "--format=%F %T", "--states=all").splitlines()
        words = [line.split() for line in lines]
        return [state for name, state in words if name == job and state not in _ENDED]

    def cancel_all(self) -> None:
        """End all jobs and wait until the nodes are free."""
        self.say("scancel", "--user=root")
        try:
            self._wait_for_no_jobs(20.0)
        except AssertionError:
            # A node that died and came back has forgotten what it was about to complete; nobody else will say it is done.
            self.say("scontrol", "update", "nodename=ALL", "state=down", "reason=forgot")
            self._wait_for_no_jobs(60.0)
        self.say("scontrol", "update", "nodename=ALL", "state=resume") if "down" in self.say("sinfo", "-h") else None

    def _wait_for_no_jobs(self, seconds: float) -> None:
        wait_for(lambda: not self.say("squeue", "--noheader"), "all jobs have ended", self.place, seconds)

    def node(self, number: int) -> int:
        """Return the process of a node's daemon."""
        return int((self.place / f"slurmd-n{number}.pid").read_text())

    def processes_on(self, number: int, words: str) -> list[int]:
        """Return the processes of a node whose command line holds some words."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (path / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                variables = (path / "environ").read_bytes().decode(errors="replace").split("\0")
                if words in line and f"SLURMD_NODENAME=n{number}" in variables:
                    found.append(int(path.name))
        return found

    def start_node(self, number: int) -> None:
        """Start a node's daemon."""
        subprocess.run(["slurmd", "-N", f"n{number}"], env=dict(self.environment), check=True, timeout=600)


_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")


@contextlib.contextmanager
def running(place: Path, environment: Mapping[str, str]) -> Iterator[SlurmCluster]:
    """Start SLURM in a directory that everybody may look into, and end it afterwards."""
    munge = place / "munge"
    for name in ("state", "spool", "log", *(f"spool/n{number}" for number in range(1, NUM_NODES + 1))):
        (place / name).mkdir(parents=True, exist_ok=True)
    munge.mkdir()
    configuration = place / "slurm.conf"
    variables = {**environment, "PATH": _path(), "SLURM_CONF": str(configuration)}
    configuration.write_text(_configuration(place, munge))
    cluster = SlurmCluster(place, variables)
    try:
        _start_munge(munge)
        subprocess.run(["slurmctld", "-c"], env=variables, check=True, timeout=600)
        for number in range(1, NUM_NODES + 1):
            cluster.start_node(number)
        wait_for(lambda: _num_idle(cluster) == NUM_NODES, "all nodes are idle", place)
        yield cluster
    finally:
        _end([*place.glob("*.pid"), *munge.glob("*.pid")])


def _configuration(place: Path, munge: Path) -> str:
    port = _free_ports(NUM_NODES + 1)
    host = socket.gethostname().partition(".")[0]
    memory = max(256, int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) // 1024 // NUM_NODES - 128)
    nodes = "\n".join(
        f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + number} CPUs={CPUS} RealMemory={memory}"
        for number in range(1, NUM_NODES + 1)
    )
    return _CONFIGURATION.format(host=host, port=port, munge=munge, place=place, nodes=nodes)


def _free_ports(number: int) -> int:
    """Return the first of so many neighbouring ports that nobody listens at."""
    for first in range(20_000 + os.getpid() % 1_000 * 10, 40_000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + number):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


def _start_munge(place: Path) -> None:
    """Start the daemon by which SLURM's processes know one another; it insists on directories of its own user's."""
    (place / "key").write_bytes(os.urandom(128))
    user = pwd.getpwnam("munge")
    for path in (place, place / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    (place / "key").chmod(0o600)
    place.chmod(0o755)
    files = {"key-file": "key", "socket": "socket", "pid-file": "munged.pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={place / value}" for name, value in files.items()]
    drop = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    subprocess.run([*drop, "munged", *options, "--num-threads=2"], env={"PATH": _path()}, check=True, timeout=600)


def _num_idle(cluster: SlurmCluster) -> int:
    command = ["sinfo", "--noheader", "--partition=low", "--format=%D %t"]
    done = subprocess.run(command, env=dict(cluster.environment), capture_output=True, text=True, timeout=600, check=False)
    return sum(int(line.split()[0]) for line in done.stdout.splitlines() if line.endswith(" idle"))


def _end(pid_files: list[Path]) -> None:
    living = []
    for path in pid_files:
        with contextlib.suppress(ValueError, OSError):
            living.append(int(path.read_text()))
            os.kill(living[-1], signal.SIGTERM)
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{process}").exists() for process in living):
        if time.monotonic() > deadline:
            for process in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.05)


def wait_for(true: Callable[[], bool], what: str, place: Path, seconds: float = 60.0) -> None:
    """Poll until something holds; tells the controller's last lines when it does not."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            log = place / "log" / "slurmctld.log"
            raise AssertionError(f"not within {seconds:g} s: {what}\n{log.read_text()[-2000:] if log.exists() else ''}")
        time.sleep(0.1)
