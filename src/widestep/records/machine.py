"""This machine as training meets it: memory, cores, descriptors, shared memory, network. Read without torch.

Functions take the root of the file system and the like as parameters, so that other machines can be described to them.
"""

import os
import resource
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from widestep.errors import EnvironmentFault
from widestep.records.fact import GIB, MIB, Fact, size
from widestep.records.place import Probe

_UNLIMITED = 2**60  # version 1 of control groups writes a number just below 2**63
_LEAST_MEMORY, _EASY_MEMORY = GIB // 4, GIB  # a process: torch alone, and with a small network at work
_LEAST_SHM = 64 * MIB
_OWN_DESCRIPTORS = 24  # of a process by itself: libraries, records, checkpoint, lock
_PER_PROCESS = 2  # a connection to every other process, twice while a job restarts
_PER_RUN = 8
_LOOKUP_SECONDS = 5.0
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Memory:
    """Bytes of memory: of the machine, of the control group (None: no limit), and what can still be taken."""

    total: int
    limit: int | None
    available: int


def memory(root: Path = Path("/")) -> Memory:
    """Return the memory that this process may use, its control group's limit (version 1 or 2) included.

    What a control group uses counts without files that the kernel would drop at once.
    """
    lines = _lines(root / "proc/meminfo")
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
    total, available = 1024 * kib.get("MemTotal", 0), 1024 * kib.get("MemAvailable", 0)
    limit = None
    for group in _control_groups(root, "memory"):
        allowed = _number(group / "memory.max", group / "memory.limit_in_bytes")
        if allowed is None or allowed >= _UNLIMITED:
            continue
        used = _number(group / "memory.current", group / "memory.usage_in_bytes") or 0
        limit = min(allowed, limit or allowed)
        available = min(available, allowed - max(0, used - _droppable(group)))
    return Memory(total, limit, max(0, available))


def memory_fact(num_local: int, root: Path = Path("/")) -> Fact:
    """Say whether memory is enough for so many processes on this machine."""
    found = memory(root)
    bound = "no limit by a control group" if found.limit is None else f"the control group may use {size(found.limit)}"
    text = f"{size(found.available)} available of {size(found.total)}, {bound}"
    values = {"available": found.available, "total": found.total, "cgroup_limit": found.limit}
    if found.available < _LEAST_MEMORY * num_local:
        remedy = f"{num_local} process(es) need {size(_LEAST_MEMORY * num_local)} at least: free or ask for more memory"
        return Fact("memory", "problem", text, remedy, values)
    if found.available < _EASY_MEMORY * num_local:
        return Fact("memory", "warning", text, f"that is little for {num_local} process(es): ask for more memory", values)
    return Fact("memory", "ok", text, values=values)


def cores_fact(num_local: int, environment: Mapping[str, str] | None = None, root: Path = Path("/")) -> Fact:
    """Say how many cores this process may use, by affinity and by its control group's quota."""
    env = os.environ if environment is None else environment
    allowed, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    quota = _cpu_quota(root)
    threads = env.get("OMP_NUM_THREADS")
    said = f", a quota of {quota:g}" if quota is not None else ""
    text = f"{allowed} of {present} cores may be used{said}; OMP_NUM_THREADS is {threads or 'not set'}"
    values = {"allowed": allowed, "present": present, "quota": quota, "omp_num_threads": threads}
    usable = min(allowed, quota) if quota is not None else allowed
    if num_local > usable:
        remedy = (
            f"{num_local} processes share them and wait for one another: use fewer processes (same result) or more cores"
        )
        return Fact("cores", "warning", text, remedy, values)
    if threads is not None and threads.isdigit() and int(threads) * num_local > max(1, usable):
        remedy = "libraries would start more threads than cores: export OMP_NUM_THREADS=1"
        return Fact("cores", "warning", text, remedy, values)
    return Fact("cores", "ok", text, values=values)


def needed_descriptors(num_processes: int, num_runs: int = 1, num_data_files: int = 0) -> int:
    """Return how many open files a process of a job may need: connections, record files, files of data."""
    return _OWN_DESCRIPTORS + _PER_PROCESS * num_processes + _PER_RUN * num_runs + num_data_files


def require_descriptors(needed: int) -> None:
    """Make sure this process may open so many files, raising its soft limit where the hard one allows.

    Raises
    ------
    EnvironmentFault
        When it may not; names the number.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise EnvironmentFault(
            f"A process of this job opens up to {needed} files. It may open {hard} (ulimit -n); raise that limit to "
            f"{needed}, or use fewer processes, which changes no byte."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def descriptors_fact(num_processes: int) -> Fact:
    """Say whether enough files may be open at a time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = needed_descriptors(num_processes)
    said = ["any number of" if limit == resource.RLIM_INFINITY else f"{limit:,}" for limit in (soft, hard)]
    text = f"{said[0]} files may be open (ulimit -n), {said[1]} on request; this job needs {needed}, more for data in shards"
    values = {"soft": None if soft == resource.RLIM_INFINITY else soft, "needed": needed}
    values["hard"] = None if hard == resource.RLIM_INFINITY else hard
    if hard != resource.RLIM_INFINITY and hard < needed:
        return Fact("descriptors", "problem", text, f"ulimit -n {needed}, or use fewer processes (same result)", values)
    return Fact("descriptors", "ok", text, values=values)


def shared_memory_fact(num_gpu_processes: int, path: Path = Path("/dev/shm")) -> Fact:
    """Say how large /dev/shm is and whether that matters: only NCCL uses it, between GPUs of a host."""
    use = "not used: threads, not processes, load images"
    try:
        found = os.statvfs(path)
    except OSError as error:
        text, values = f"{path} cannot be read ({error.strerror})", {"total": 0, "free": 0}
    else:
        values = {"total": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}
        text = f"{size(values['free'])} free of {size(values['total'])} in {path}"
    if num_gpu_processes > 1 and values["free"] < _LEAST_SHM:
        remedy = f"NCCL wants {size(_LEAST_SHM)}: give a container --shm-size=1g, or export NCCL_SHM_DISABLE=1"
        return Fact("shm", "warning", text, remedy, values)
    return Fact("shm", "ok", f"{text}; {'used by NCCL' if num_gpu_processes > 1 else use}", values=values)


def loopback_fact(num_local: int) -> Fact:
    """Say whether two ends meet at the loopback address: the processes of one host do."""
    try:
        with socket.create_server((_LOOPBACK, 0)) as listener, socket.create_connection(listener.getsockname(), 5.0):
            listener.settimeout(5.0)
            listener.accept()[0].close()
    except OSError as error:
        text, values = f"{_LOOPBACK} cannot be reached ({error.strerror or error})", {"works": False}
        if num_local == 1:
            return Fact("loopback", "warning", text, "several processes would need it: ip link set lo up", values)
        return Fact("loopback", "problem", text, "ip link set lo up", values)
    return Fact("loopback", "ok", f"{_LOOPBACK} works", values={"works": True})


def require_loopback() -> None:
    """Make sure that processes of one host can meet; raises EnvironmentFault when they cannot."""
    found = loopback_fact(2)
    if found.state == "problem":
        raise EnvironmentFault(f"The processes of a job on one host meet over its loopback interface. {found.sentence()}.")


def host_name_fact(num_hosts: int, name: str | None = None) -> Fact:
    """Say whether the name of this host has an address: several hosts need that, one does not."""
    host = socket.gethostname() if name is None else name
    found: list[str] = []

    def look_up() -> None:
        with suppress(OSError, UnicodeError):
            found.extend(sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}))

    asking = threading.Thread(target=look_up, daemon=True)  # a dead name server must not hold us up
    asking.start()
    asking.join(_LOOKUP_SECONDS)
    addresses = list(found)
    values = {"host": host, "addresses": addresses}
    if addresses:
        return Fact("hostname", "ok", f"{host} is {', '.join(addresses)}", values=values)
    if num_hosts > 1:
        remedy = "other hosts must find this one: add it to /etc/hosts or the name server, or export MASTER_ADDR as a number"
        return Fact("hostname", "problem", f"{host} has no address", remedy, values)
    return Fact("hostname", "ok", f"{host} has no address; on one host none is needed", values=values)


def temporary_fact(environment: Mapping[str, str] | None = None) -> Fact:
    """Say whether temporary files can be written: only a compiled model and libraries need them."""
    env = os.environ if environment is None else environment
    folder = Path(env.get("TMPDIR") or "/tmp")
    try:
        Probe(folder).remove()
    except OSError as error:
        remedy = "set TMPDIR to a directory with space; training itself needs none, --compile does"
        return Fact("tmpdir", "warning", f"{folder} cannot be written to ({error.strerror})", remedy, {"path": str(folder)})
    return Fact("tmpdir", "ok", f"{folder} can be written to", values={"path": str(folder)})


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the directories of this process's control group and of those above it."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        group = top / path.lstrip("/")
        while group != top and top in group.parents:
            yield group
            group = group.parent
        yield top


def _cpu_quota(root: Path) -> float | None:
    """Return how many cores' time the control group may use, or None without a limit."""
    quotas = []
    for group in _control_groups(root, "cpu"):
        words = (_lines(group / "cpu.max") or ["max"])[0].split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        allowed, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if allowed and period and allowed > 0:
            quotas.append(allowed / period)
    return min(quotas, default=None)


def _droppable(group: Path) -> int:
    pairs = (line.split() for line in _lines(group / "memory.stat"))
    return max((int(number) for name, number in pairs if name in ("inactive_file", "total_inactive_file")), default=0)


def _number(*paths: Path) -> int | None:
    """Return what the first file that exists says, or None when none does or it says `max`."""
    for path in paths:
        for line in _lines(path):
            return int(line) if line.lstrip("-").isdigit() else None
    return None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
