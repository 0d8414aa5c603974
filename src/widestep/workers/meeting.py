"""How the processes of a job find one another: at an address where process 0 listens, or at a launcher's own store."""

import contextlib
import errno
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from widestep.errors import EnvironmentFault, WidestepError, WorkerLost
from widestep.workers.hosts import reachable
from widestep.workers.launched import Launch, choose_interface, host_name

_TCPStore: Any = dist.TCPStore  # type: ignore[attr-defined]
_PrefixStore: Any = dist.PrefixStore  # type: ignore[attr-defined]
_ALL = "all"
_MOMENT = timedelta(seconds=5)
_KNOCK_SECONDS, _PAUSE_SECONDS = 1.0, 0.1


def meet(launch: Launch, patience: timedelta, join_patience: float) -> Any:
    """Make torch's group of all processes, and return the store at which they have met.

    Every attempt has keys of its own at the store: torchrun keeps one store for all, where a new process would otherwise
    find the address of one that is dead.

    Parameters
    ----------
    patience
        How long a process waits for another one in an exchange.
    join_patience
        How many seconds it waits for all to come.

    Raises
    ------
    EnvironmentFault
        When they cannot meet; process 0 names those that have not come.
    WorkerLost
        The same under our own launcher, which has started all: one was lost since.
    """
    launch = replace(launch, address=reachable(launch.address, launch.launcher))
    choose_interface(launch)
    deadline = time.monotonic() + join_patience
    with _explained(launch):
        store: Any = _PrefixStore(f"widestep/{launch.attempt}", _store(launch, join_patience, deadline))
        store.set(f"here/{launch.process}", host_name())
    if launch.process == 0:
        _wait_for_all(store, launch, join_patience, deadline)
    else:
        _wait_for_word(store, launch, join_patience)
    with _explained(launch):
        dist.init_process_group("gloo", store=store, rank=launch.process, world_size=launch.num_processes, timeout=patience)
    return store


def silent(store: Any, launch: Launch) -> str:
    """Ask, when an exchange has failed, which processes are still there, and say in words which are not.

    Whoever lives has lost the exchange as well and says so at the store within a moment. A store whose host is out of reach
    may never answer, so a thread asks, which is left behind then.
    """
    found = ["process 0, or the launcher, which keeps the store at which they meet"]

    def ask() -> None:
        others = [process for process in range(launch.num_processes) if process != launch.process]
        store.set(f"lost/{launch.process}", "")
        with contextlib.suppress(RuntimeError):
            store.wait([f"lost/{process}" for process in others], _MOMENT)
        missing = [process for process in others if not store.check([f"lost/{process}"])]
        hosts = [store.get(f"here/{process}").decode() for process in missing]
        found[0] = ", ".join(f"process {process} on {host}" for process, host in zip(missing, hosts, strict=True))

    def ask_or_give_up() -> None:
        with contextlib.suppress(RuntimeError):
            ask()

    thread = threading.Thread(target=ask_or_give_up, daemon=True)
    thread.start()
    thread.join(2 * _MOMENT.total_seconds())
    return found[0]


def _store(launch: Launch, join_patience: float, deadline: float) -> Any:
    listening = launch.process == 0 and not launch.has_store
    descriptor = launch.listen_descriptor
    if listening and descriptor is None:
        descriptor = _listen(launch)
    if not listening and not launch.is_ours:
        _wait_for_listener(launch, deadline)
    options: dict[str, Any] = {} if descriptor is None else {"master_listen_fd": descriptor}
    return _TCPStore(
        launch.address,
        launch.port,
        is_master=listening,
        timeout=timedelta(seconds=join_patience),
        wait_for_workers=False,
        **options,
    )


def _wait_for_listener(launch: Launch, deadline: float) -> None:
    """Wait until somebody listens at the job's address; raises RuntimeError when nobody does in time."""
    while True:
        try:
            socket.create_connection((launch.address, launch.port), _KNOCK_SECONDS).close()
        except OSError as error:
            if time.monotonic() >= deadline:
                raise RuntimeError(f"nobody listens there ({error.strerror or error})") from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _listen(launch: Launch) -> int | None:
    """Listen at the address that was named, and nowhere else; None leaves it to torch, where that is not an own address.

    A job over several hosts whose first one knows its own name as a loopback address, as Debian writes it, is not reached
    there.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        address = socket.gethostbyname(launch.address)
        if ipaddress.ip_address(address).is_loopback and not launch.one_host:
            listener.close()
            return None
        listener.bind((address, launch.port))
        listener.listen(2 * launch.num_processes)  # each knocks first
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            return None
        raise EnvironmentFault(
            f"Process 0 must be able to listen at {launch.address}:{launch.port}. It could not: {error.strerror}. Export "
            "another MASTER_PORT."
        ) from None
    return listener.detach()


def _wait_for_all(store: Any, launch: Launch, join_patience: float, deadline: float) -> None:
    """Wait until every process has come, and tell the others."""
    keys = [f"here/{process}" for process in range(launch.num_processes)]
    try:
        _wait(store, keys, deadline)
    except RuntimeError:
        missing = [process for process, key in enumerate(keys) if not store.check([key])]
        words = (
            f"All {launch.num_processes} processes must meet within {join_patience:g} s. "
            f"{launch.num_processes - len(missing)} came; missing: {', '.join(map(str, missing))}. See whether they were "
            f"started and can reach {launch.address}:{launch.port}, or give more time by --join-timeout."
        )
        store.set(_ALL, words)
        with contextlib.suppress(RuntimeError):  # the store ends with this process: let those that came read it
            store.wait([f"heard/{process}" for process in range(1, launch.num_processes) if process not in missing], _MOMENT)
        raise _failure(launch, words) from None
    store.set(_ALL, "")


def _wait(store: Any, keys: list[str], deadline: float) -> None:
    """Wait until all keys are set; raises RuntimeError at the deadline, or when the store cannot be reached any more.

    By looking now and then: torch's own wait hears no signal before its end.
    """
    while not store.check(keys):
        if time.monotonic() >= deadline:
            raise RuntimeError("they did not come in time")
        time.sleep(_PAUSE_SECONDS)


def _wait_for_word(store: Any, launch: Launch, join_patience: float) -> None:
    """Wait until process 0 says that all have come, or who has not."""
    try:
        _wait(store, [_ALL], time.monotonic() + join_patience + _MOMENT.total_seconds())  # process 0 began before now
        words = store.get(_ALL).decode()
        store.set(f"heard/{launch.process}", "")
    except RuntimeError:
        words = (
            f"All {launch.num_processes} processes must meet within {join_patience:g} s. Process {launch.process} heard "
            f"nothing from process 0 at {launch.address}:{launch.port}."
        )
    if words:
        raise _failure(launch, words)


@contextlib.contextmanager
def _explained(launch: Launch) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise _failure(
            launch,
            f"All {launch.num_processes} processes must meet at {launch.address}:{launch.port}. Process {launch.process} "
            f"could not: {str(error).splitlines()[0]}. Check that all were started and can reach it.",
        ) from error


def _failure(launch: Launch, words: str) -> WidestepError:
    return WorkerLost(words) if launch.is_ours else EnvironmentFault(words)
