"""Who started this process: the only reader of launchers' environment variables, and free of torch."""

import ctypes
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from widestep.errors import EnvironmentFault

_LOOPBACK = "127.0.0.1"
_PARENT = "WIDESTEP_PARENT"
_PR_SET_PDEATHSIG = 1


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
    """

    launcher: str
    process: int
    num_processes: int
    local_process: int
    address: str
    port: int
    listen_descriptor: int | None = None


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
        if process not in env or size not in env or (launcher == "srun" and "SLURM_STEP_ID" not in env):
            continue
        num_processes = int(env[size])
        one_host = env.get(local_size, "").split("(")[0] == env[size]
        address = env.get("MASTER_ADDR", _LOOPBACK if one_host or num_processes == 1 else "")
        if not address:
            raise EnvironmentFault(
                f"A {launcher} job over several hosts needs the address of its process 0. MASTER_ADDR is not set; "
                "export it, for example the first host of the job."
            )
        listening = env.get("WIDESTEP_LISTEN")
        return Launch(
            launcher="widestep" if listening is not None else launcher,
            process=int(env[process]),
            num_processes=num_processes,
            local_process=int(env.get(local, "0")),
            address=address,
            port=int(env.get("MASTER_PORT", _port_of_job(env))),
            listen_descriptor=int(listening) if listening else None,
        )
    return None


def attached_environment() -> dict[str, str]:
    """Return the variable that lets a process we start end with this one."""
    return {_PARENT: str(os.getpid())}


def child_environment(process: int, num_processes: int, port: int, listen_descriptor: int) -> dict[str, str]:
    """Return the variables with which our own launcher starts a process on this host."""
    return {
        "RANK": str(process),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_RANK": str(process),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "WIDESTEP_LISTEN": str(listen_descriptor) if process == 0 else "",
        **attached_environment(),
    }


def die_with_parent(environment: Mapping[str, str] | None = None) -> None:
    """Ask the kernel to end this process when the one of ours that started it dies (Linux): no orphan goes on writing.

    Does nothing in a process that none of ours started.
    """
    parent = (os.environ if environment is None else environment).get(_PARENT)
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def _port_of_job(env: Mapping[str, str]) -> str:
    job = env.get("LSB_JOBID") or env.get("SLURM_JOB_ID") or "0"
    return str(10_000 + int(job) % 50_000)
