"""The directory of a run before it is one: written, locked, measured, and left as it was."""

import errno
import os
from collections import namedtuple
from pathlib import Path

import pytest

from widestep.errors import EnvironmentFault, UsageError
from widestep.records import place
from widestep.records.place import Probe, directory_facts, require_space, require_writable, space

Sizes = namedtuple("Sizes", "f_bavail f_frsize f_favail f_files")


@pytest.fixture
def failing(monkeypatch):
    """`failing("fsync", errno.EIO)` makes a call of the system fail."""

    def make(name, number):
        def fail(*arguments, **others):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(place.fcntl if name == "lockf" else place.os, name, fail)

    return make


@pytest.mark.parametrize("parts", [(), ("new",), ("new", "deeper", "deepest")])
def test_nothing_is_left_behind(tmp_path, parts):
    directory = tmp_path.joinpath(*parts)
    probe = Probe(directory)
    assert probe.path.read_bytes() == probe.content
    assert probe.locks
    probe.remove()
    assert list(tmp_path.iterdir()) == []


def test_directories_somebody_else_uses_by_now_stay(tmp_path):
    probe = Probe(tmp_path / "new" / "deeper")
    (tmp_path / "new" / "other").write_text("mine")
    probe.remove()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["other"]


@pytest.mark.parametrize("name", ["open", "write", "fsync", "lockf"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_whatever_fails_is_said_and_undone(tmp_path, failing, name, number):  # row 37
    failing(name, number)
    with pytest.raises(EnvironmentFault, match=os.strerror(number)):
        require_writable([tmp_path / "new" / "run"])
    assert list(tmp_path.iterdir()) == []


def test_a_short_write_is_a_full_disk(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(place.os, "write", lambda descriptor, data: write(descriptor, data[:100]))
    with pytest.raises(EnvironmentFault, match="No space left"):
        require_writable([tmp_path])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_locks_that_do_not_work_are_a_warning(tmp_path, failing, number):  # row 55
    failing("lockf", number)
    require_writable([tmp_path])
    (locks,) = [fact for fact in directory_facts(tmp_path) if fact.name == "locks"]
    assert (locks.state, locks.values) == ("warning", {"works": False})


def test_a_file_in_the_place_of_a_directory(tmp_path):
    (tmp_path / "file").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(EnvironmentFault, match="must be writable"):
            require_writable([directory])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["n" * 256, "null\0byte", "ü" * 128])
def test_names_no_file_can_have(tmp_path, name):  # row 58
    with pytest.raises(UsageError, match="--out must be a name that a file can have") as caught:
        require_writable([tmp_path / name])
    assert "\0" not in str(caught.value)
    assert directory_facts(tmp_path / name)[0].state == "problem"


def test_the_working_directory_was_deleted(tmp_path, monkeypatch):  # row 56
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(EnvironmentFault, match="has been deleted; cd to one that exists"):
        require_writable([Path("run")])


def test_space(tmp_path, monkeypatch):  # row 35, before the start
    monkeypatch.setattr(place.os, "statvfs", lambda path: Sizes(10, 4096, 63, 1000))
    require_space(tmp_path / "new", 40_960, 63)
    with pytest.raises(EnvironmentFault, match=r"need 40 KiB and 40 KiB are free|need 40\.0 KiB"):
        require_space(tmp_path / "new", 40_961, 63)
    with pytest.raises(EnvironmentFault, match=r"up to 64 files\. .* has 63 inodes left"):
        require_space(tmp_path, 0)
    assert [fact.state for fact in directory_facts(tmp_path) if fact.name == "space"] == ["problem"]
    monkeypatch.setattr(place.os, "statvfs", lambda path: Sizes(10, 4096, 0, 0))  # btrfs counts no inodes
    require_space(tmp_path, 0)
    assert space(tmp_path).free_files is None


MOUNTS = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /scratch rw - lustre mds@tcp:/s rw
31 30 0:26 / /scratch/with\\040space rw shared:2 master:1 - nfs4 server:/x rw
32 22 0:27 / /scratchy rw - tmpfs none rw
33 22 0:28 / /scratchy rw - overlay overlay rw
"""


@pytest.mark.parametrize(
    ("where", "kind", "point"),
    [
        ("/", "ext4", "/"),
        ("/home", "ext4", "/"),
        ("/scratch", "lustre", "/scratch"),
        ("/scratch/a/b", "lustre", "/scratch"),
        ("/scratch/with space/a", "nfs4", "/scratch/with space"),
        ("/scratchy/a", "overlay", "/scratchy"),
        ("/scratchier", "ext4", "/"),
    ],
)
def test_the_kind_of_file_system(tmp_path, where, kind, point):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert place._mount_of(Path(where), tmp_path / "mountinfo") == (kind, point)


def test_a_file_system_nobody_knows(tmp_path):
    assert space(tmp_path, tmp_path / "absent").kind == "unknown"


def test_all_is_well(tmp_path):
    facts = directory_facts(tmp_path / "run")
    assert [fact.name for fact in facts] == ["directory", "filesystem", "space", "locks"]
    assert facts[0].text == f"{str(tmp_path / 'run')!r} does not exist and can be made"
    assert list(tmp_path.iterdir()) == []
