"""Who started this process: the only reader of launchers' environment variables, and free of torch."""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

from widestep.errors import EnvironmentFault
from widestep.workers.hosts import first_host, seconds_left

LOOPBACK = "127.0.0.1"
_PARENT = "WIDESTEP_PARENT"
_PR_SET_PDEATHSIG = 1
_SIOCGIFADDR = 0x8915
_INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass(frozen=True)
class Launch:
    """This process's place in the job.

    Parameters
    ----------
    launcher
        Who started it, for messages.
    process, num_processes
        Its number in the job, and how many there are.
    local_process
        Its number on this host: which device it takes.
    address, port
        Where process 0 listens.
    listen_descriptor
        File descriptor of an already bound socket that process 0 must use (set by our own launcher).
    attempt
        How often the job was started again before.
    because
        What ended the attempt before.
    one_host
        Whether all processes are on this host.
    has_store
        Whether the launcher itself listens at address and port.
    """

    launcher: str
    process: int = 0
    num_processes: int = 1
    local_process: int = 0
    address: str = LOOPBACK
    port: int = 0
    listen_descriptor: int | None = None
    attempt: int = 0
    because: str = ""
    one_host: bool = True
    has_store: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether our own launcher watches over the processes, all on this host, and starts lost ones again."""
        return self.launcher == "widestep"


_PORTS_BETWEEN_STEPS = 1_009

# launcher -> variables of (process, number of processes, local process, local number); the first complete row wins.
# OpenMPI precedes SLURM: inside a batch job started by mpirun, SLURM's variables describe mpirun's own daemons.
# SLURM counts only inside a step (srun): in the batch shell its variables are set though one process runs.
_ROWS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}


def detect(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return this process's place in the job of a launcher, or None when nobody launched it.

    Raises
    ------
    EnvironmentFault
        When the launcher spans hosts and no address of process 0 is given.
    """
    env = os.environ if environment is None else environment
    for launcher, (process, size, local, local_size) in _ROWS.items():
        if process not in env or size not in env or (launcher == "srun" and not _in_step(env)):
            continue
        num_processes, number = _number(env, size, launcher), _number(env, process, launcher)
        if not 0 <= number < num_processes:
            raise EnvironmentFault(
                f"Processes of a {launcher} job are numbered from 0. {process} is {number} and {size} is {num_processes}."
            )
        one_host = num_processes == 1 or env.get(local_size, "").split("(")[0] == env[size]
        address = env.get("MASTER_ADDR") or (LOOPBACK if one_host else first_host(launcher, env))
        if not address:
            raise EnvironmentFault(
                f"A {launcher} job over several hosts needs the address of its process 0. MASTER_ADDR is not set, and the "
                "scheduler does not say; export it, for example the first host of the job."
            )
        restarts = "TORCHELASTIC_RESTART_COUNT" if launcher == "torchrun" else "SLURM_RESTART_COUNT"
        return Launch(
            launcher,
            process=number,
            num_processes=num_processes,
            local_process=_number(env, local, launcher, "0"),
            address=address,
            port=_number(env, "MASTER_PORT", launcher, _port_of_job(env, launcher)),
            attempt=_number(env, restarts, launcher, "0"),
            one_host=one_host,
            has_store=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )
    return None


def job_id(environment: Mapping[str, str] | None = None) -> str | None:
    """Return what its batch system or launcher calls this job, the same when it is started again; None without one."""
    env = os.environ if environment is None else environment
    names = ("SLURM_JOB_ID", "LSB_JOBID", "TORCHELASTIC_RUN_ID")
    return next((f"{name}={env[name]}" for name in names if env.get(name)), None)


def is_ours(environment: Mapping[str, str] | None = None) -> bool:
    """Say whether a process of ours started this one, and speaks for it."""
    return _PARENT in (os.environ if environment is None else environment)


def is_requeued(environment: Mapping[str, str] | None = None) -> bool:
    """Say whether SLURM starts this job again, after a preemption or the loss of its node."""
    env = os.environ if environment is None else environment
    return env.get("SLURM_RESTART_COUNT", "0") != "0"


def _in_step(env: Mapping[str, str]) -> bool:
    return "SLURM_STEP_ID" in env


def _number(env: Mapping[str, str], name: str, launcher: str, usual: str = "") -> int:
    text = env.get(name, usual)
    if not text.isdecimal():
        raise EnvironmentFault(f"{launcher} sets {name} to a whole number. It is {text!r}; start the job by a launcher.")
    return int(text)


def host_name() -> str:
    """Return this host's name, as the scheduler knows it where there is one."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def attached_environment() -> dict[str, str]:
    """Return the variable that lets a process we start end with this one."""
    return {_PARENT: str(os.getpid())}


def choose_interface(launch: Launch) -> None:
    """Let the processes of a job talk over one interface, unless the user names it in GLOO_SOCKET_IFNAME.

    On one host that is the loopback interface, on several the one by which process 0 is reached. Left alone, gloo takes the
    address that the host's own name stands for, which on many systems is a loopback address that no other host can reach.
    """
    if launch.one_host:
        if launch.is_ours or _INTERFACE not in os.environ:
            os.environ[_INTERFACE] = "lo"
    elif _INTERFACE not in os.environ and (name := _interface_towards(launch.address, launch.port)):
        os.environ[_INTERFACE] = name


def _interface_towards(address: str, port: int) -> str | None:
    """Return the network interface whose address packets to another host carry, or None when it cannot be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))  # sends nothing
            own = socket.inet_aton(probe.getsockname()[0])
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):  # an interface without an address
                    request = struct.pack("256s", name.encode()[:15])
                    if fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24] == own:
                        return name
    except OSError:
        pass
    return None


def seconds_of_job(environment: Mapping[str, str] | None = None) -> float | None:
    """Return how many seconds the scheduler leaves this job, or None when it does not say (SLURM does).

    Older releases of SLURM do not set SLURM_JOB_END_TIME. Then process 0 asks, for all.
    """
    env = os.environ if environment is None else environment
    end, job = env.get("SLURM_JOB_END_TIME", ""), env.get("SLURM_JOB_ID", "")
    if end.isdecimal():
        return float(end) - time.time()
    if not job.isdecimal() or (_in_step(env) and env.get("SLURM_PROCID") != "0"):
        return None
    return seconds_left(job)


def die_with_parent(environment: Mapping[str, str] | None = None) -> None:
    """Ask the kernel to end this process when the one that started it dies (Linux): no orphan goes on writing.

    One of ours is killed. Processes of torchrun are asked to save and stop: its agent dies of some signals, such as the
    SIGUSR1 by which SLURM announces the end of a job, without a word to them. Other launchers see to it themselves.
    """
    env = os.environ if environment is None else environment
    if (parent := env.get(_PARENT)) is not None:
        die_with(int(parent))
    elif "TORCHELASTIC_RUN_ID" in env:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent, the process `parent`, dies (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def is_launched(environment: Mapping[str, str] | None = None) -> bool:
    """Say whether a launcher of others started this process, whatever it forgot to say."""
    try:
        return detect(environment) is not None
    except EnvironmentFault:
        return True


def _port_of_job(env: Mapping[str, str], launcher: str) -> str:
    """Choose a port that other jobs, and steps of this one that run beside it, hardly ever choose."""
    job = env.get("LSB_JOBID") or env.get("SLURM_JOB_ID") or "0"
    # Of mpirun's processes only those have a step that mpirun has started by one.
    step = _number(env, "SLURM_STEP_ID", launcher) if launcher == "srun" else 0
    return str(10_000 + (int(job) + _PORTS_BETWEEN_STEPS * step) % 50_000)
