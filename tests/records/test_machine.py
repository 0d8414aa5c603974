"""Facts about a machine, of machines that were made up: control groups of both versions, limits, networks."""

import resource
import socket
import threading

import pytest

from widestep.errors import EnvironmentFault
from widestep.records import machine
from widestep.records.fact import GIB, MIB, Fact, combined, size, worst

MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total:       0\n"


@pytest.fixture
def computer(tmp_path):
    """`computer({"proc/meminfo": ...})` is a file system with these files."""

    def make(files):
        for name, text in {"proc/meminfo": MEMINFO, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def test_memory_without_limits(computer):
    assert machine.memory(computer({})) == machine.Memory(16 * GIB, None, 8 * GIB)


def test_memory_of_a_control_group_of_version_2(computer):
    """The group may use 2 GiB and uses 1.5, of which 1 GiB is files that can be dropped: 1.5 GiB are left."""
    group = "sys/fs/cgroup/job/step"
    root = computer(
        {
            "proc/self/cgroup": "0::/job/step\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "0\n",
            "sys/fs/cgroup/job/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/job/memory.current": f"{3 * GIB // 2}\n",
            "sys/fs/cgroup/job/memory.stat": f"anon 7\ninactive_file {GIB}\n",
        }
    )
    assert machine.memory(root) == machine.Memory(16 * GIB, 2 * GIB, 3 * GIB // 2)


def test_memory_of_a_control_group_of_version_1(computer):
    """The smallest limit on the way up counts; what is next to 2**63 is none."""
    root = computer(
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/job\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{900 * MIB}\n",
            "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 0\ntotal_inactive_file {100 * MIB}\n",
        }
    )
    assert machine.memory(root) == machine.Memory(16 * GIB, GIB, 224 * MIB)
    assert machine.memory_fact(1, root).state == "problem"
    assert "the control group may use 1 GiB" in machine.memory_fact(1, root).text


@pytest.mark.parametrize(("num_local", "state"), [(1, "ok"), (8, "ok"), (9, "warning"), (32, "warning"), (33, "problem")])
def test_a_process_needs_a_quarter_of_a_gib_and_likes_one(computer, num_local, state):
    fact = machine.memory_fact(num_local, computer({}))
    assert fact.state == state
    assert bool(fact.remedy) == (state != "ok")


def test_memory_cannot_be_read(tmp_path):
    assert machine.memory(tmp_path) == machine.Memory(0, None, 0)


def test_a_quota_of_cores(computer, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)))
    root = computer({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"})
    fact = machine.cores_fact(1, {"OMP_NUM_THREADS": "1"}, root)
    assert (fact.state, fact.values["allowed"], fact.values["quota"]) == ("ok", 8, 1.5)
    assert machine.cores_fact(2, {}, root).state == "warning"
    old = computer(
        {
            "proc/self/cgroup": "2:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert machine.cores_fact(1, {}, old).values["quota"] == 4
    assert "export OMP_NUM_THREADS=1" in machine.cores_fact(1, {"OMP_NUM_THREADS": "5"}, old).remedy
    unlimited = computer({"proc/self/cgroup": "2:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"})
    assert machine.cores_fact(8, {}, unlimited).state == "ok"
    assert machine.cores_fact(9, {}, unlimited).state == "warning"


@pytest.fixture
def limits(monkeypatch):
    """`limits(soft, hard)` are those of open files; returns what is set."""
    found = []

    def make(soft, hard):
        monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (soft, hard))
        monkeypatch.setattr(machine.resource, "setrlimit", lambda which, pair: found.append(pair))
        return found

    return make


def test_the_soft_limit_of_descriptors_is_raised(limits):  # row 61
    assert limits(64, 4096)[:] == []
    machine.require_descriptors(64)
    assert limits(64, 4096) == []
    machine.require_descriptors(65)
    assert limits(64, 4096) == [(65, 4096)]
    limits(64, resource.RLIM_INFINITY)
    machine.require_descriptors(300)
    assert limits(64, 64)[-1] == (300, resource.RLIM_INFINITY)
    limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    machine.require_descriptors(10**6)


def test_too_few_descriptors_are_refused_with_the_number(limits):  # row 61
    limits(64, 128)
    with pytest.raises(EnvironmentFault, match=r"opens up to 129 files\. It may open 128 \(ulimit -n\); raise .* to 129"):
        machine.require_descriptors(129)
    fact = machine.descriptors_fact(200)
    assert fact.state == "problem"
    assert f"ulimit -n {machine.needed_descriptors(200)}" in fact.remedy
    assert machine.descriptors_fact(2).state == "ok"


def test_shared_memory_matters_only_to_nccl(tmp_path):  # row 74
    assert "not used" in machine.shared_memory_fact(0).text
    assert machine.shared_memory_fact(0, tmp_path / "absent").state == "ok"
    assert machine.shared_memory_fact(1, tmp_path / "absent").state == "ok"
    fact = machine.shared_memory_fact(2, tmp_path / "absent")
    assert (fact.state, fact.values["free"]) == ("warning", 0)
    assert "--shm-size" in fact.remedy


def test_a_host_name_without_an_address(monkeypatch):  # row 32
    def unknown(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(machine.socket, "getaddrinfo", unknown)
    assert machine.host_name_fact(1, "nobody").state == "ok"
    assert machine.host_name_fact(2, "nobody").state == "problem"
    monkeypatch.setattr(machine.socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("10.0.0.7", 0))] * 2)
    assert machine.host_name_fact(2, "node").text == "node is 10.0.0.7"


def test_a_name_server_that_does_not_answer(monkeypatch):  # row 32
    answer = threading.Event()
    monkeypatch.setattr(machine.socket, "getaddrinfo", lambda *_: [][: answer.wait(30)])
    monkeypatch.setattr(machine, "_LOOKUP_SECONDS", 0.05)
    assert machine.host_name_fact(2, "node").state == "problem"
    answer.set()


def test_no_loopback(monkeypatch):  # row 32
    def down(*_):
        raise OSError(101, "Network is unreachable")

    assert machine.loopback_fact(2).state == "ok"
    monkeypatch.setattr(machine.socket, "create_connection", down)
    assert machine.loopback_fact(1).state == "warning"
    assert machine.loopback_fact(2).remedy == "ip link set lo up"


def test_temporary_files(tmp_path):  # row 59
    assert machine.temporary_fact({"TMPDIR": str(tmp_path)}).state == "ok"
    assert machine.temporary_fact({"TMPDIR": "/proc/nowhere"}).state == "warning"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536 * MIB, "1.5 GiB"),
        (999 * MIB, "999 MiB"),
        (5000 * GIB, "5,000 GiB"),
    ],
)
def test_sizes_in_words(num_bytes, words):
    assert size(num_bytes) == words


def test_what_hosts_found_is_put_together():
    ok, full, bad = Fact("space", "ok", "much"), Fact("space", "warning", "little"), Fact("memory", "problem", "none", "buy")
    assert combined(["a", "a"], [[ok], [full]]) == [full]  # the worst of a host
    assert combined(["a", "b"], [[ok], [ok]]) == [ok]  # hosts that agree are told of once
    found = combined(["a", "b", "b"], [[ok], [bad, ok], [full]])
    assert [(fact.name, fact.where, fact.state) for fact in found] == [
        ("space", "a", "ok"),
        ("space", "b", "warning"),
        ("memory", "b", "problem"),
    ]
    assert worst(found) == "problem"
    assert worst([]) == "ok"
    assert Fact(**bad.record()) == bad
