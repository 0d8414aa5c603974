"""Two hosts on one machine: network namespaces joined by a cable that can be pulled."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from running_jobs import steps_saved

pytestmark = pytest.mark.processes
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@dataclass
class Hosts:
    """Two namespaces."""

    names: tuple[str, str]

    def plug(self, state: str) -> None:
        """Pull the cable (`down`), or put it in again (`up`)."""
        assert ip("-n", self.names[0], "link", "set", "eth0", state)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nsenter") is None:
        pytest.skip("network namespaces need root, ip and nsenter")
    names = (f"wsa{os.getpid()}", f"wsb{os.getpid()}")
    try:
        if not all(ip("netns", "add", name) for name in names):
            pytest.skip("this system makes no network namespaces")
        assert ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            assert ip("-n", name, "link", "set", "eth0", "up")
            assert ip("-n", name, "link", "set", "lo", "up")
        yield Hosts(names)
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.fixture
def on_two_hosts(job: Any, hosts: Hosts) -> Callable[..., list["subprocess.Popen[str]"]]:
    """Start one process on each, as a batch system would that names the address of process 0 and nothing else."""

    def start(**changes: Any) -> list["subprocess.Popen[str]"]:
        started = []
        for number, name in enumerate(hosts.names):
            variables = {
                "RANK": str(number),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "0",
                "LOCAL_WORLD_SIZE": "1",
                "MASTER_ADDR": ADDRESSES[0],
                "MASTER_PORT": "29777",
            }
            child = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{name}", job.python, *job.words(**changes)],
                env={**job.environment, **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            job.children.append(child)
            started.append(child)
        return started

    return start


def test_two_hosts(job: Any, on_two_hosts: Any, uninterrupted: Any) -> None:
    for child in on_two_hosts():
        _, stderr = child.communicate(timeout=600)
        assert child.returncode == 0, stderr
    uninterrupted(job.directory)


def test_an_outage_shorter_than_the_patience(
    job: Any, hosts: Hosts, on_two_hosts: Any, until: Any, uninterrupted: Any
) -> None:  # row 27
    job.fail_at(process=1, step=1, how="slow", phase="computing", seconds=0.05)
    children = on_two_hosts(hang_timeout="30s")
    until(lambda: steps_saved(job.directory) >= 5, "five steps")
    hosts.plug("down")
    time.sleep(3)
    hosts.plug("up")
    for child in children:
        _, stderr = child.communicate(timeout=600)
        assert child.returncode == 0, stderr
    assert [event["event"] for event in job.events] == ["started", "complete"]
    uninterrupted(job.directory)


def test_an_outage_longer_than_the_patience(
    job: Any, hosts: Hosts, on_two_hosts: Any, until: Any, uninterrupted: Any
) -> None:  # row 28, G14
    job.fail_at(process=1, step=1, how="slow", phase="computing", seconds=0.05)
    children = on_two_hosts(hang_timeout="8s")
    until(lambda: steps_saved(job.directory) >= 5, "five steps")
    hosts.plug("down")
    said = []
    for child in children:
        _, stderr = child.communicate(timeout=600)
        assert child.returncode == 8, stderr
        said.append(stderr.splitlines()[-1])
    assert "Process 0 lost process 1 on " in said[0]
    assert "Process 1 lost process 0, or the launcher, which keeps the store at which they meet at step " in said[1]
    hosts.plug("up")
    job.faults.clear()
    for child in on_two_hosts():
        _, stderr = child.communicate(timeout=600)
        assert child.returncode == 0, stderr
    uninterrupted(job.directory)
