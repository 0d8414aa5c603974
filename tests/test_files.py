import errno
import json
import os
from pathlib import Path

import pytest
from failing_disks import disk_full, no_file_larger_than

from widestep.errors import DirectoryInUse, EnvironmentFault, StoreError
from widestep.files import (
    explained,
    make_directory,
    remove_leftovers,
    write_atomically,
    write_json,
)
from widestep.lines import LineFile


def interrupted(*_args: object, **_named: object) -> None:
    raise KeyboardInterrupt


def test_write_and_replace(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "grün")
    assert path.read_bytes() == "grün".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a"]


def test_the_order_that_makes_a_write_durable(tmp_path, monkeypatch):
    """The content reaches the disk before the name does, and the name before we go on; the fence is asked in between."""
    calls, path = [], tmp_path / "a"
    fsync, replace, read = os.fsync, os.replace, os.pread

    class Asked:
        generation = 3

        def check(self) -> None:
            calls.append("fence")

    def synced(descriptor: int) -> None:
        calls.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        assert source.name.startswith(f".a.g3.{os.getpid()}.")
        calls.append("rename")
        replace(source, target)

    def looked(*arguments: int) -> bytes:
        calls.append("read")
        return read(*arguments)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "pread", looked)
    write_atomically(path, "12345", Asked())
    assert calls == [5, "read", "fence", "rename", "directory"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize(("fault", "error"), [(disk_full, EnvironmentFault), (interrupted, KeyboardInterrupt)])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(call, fault, error, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fault)
        with pytest.raises(error):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_fence_that_refuses_leaves_the_old_content(tmp_path):
    class Taken:
        generation = 3

        def check(self) -> None:
            raise DirectoryInUse("taken over")

    (tmp_path / "a").write_text("old")
    with pytest.raises(DirectoryInUse):
        write_atomically(tmp_path / "a", "new", Taken())
    assert (tmp_path / "a").read_text() == "old"
    file = LineFile(tmp_path / "a", None, Taken())
    file.append("new")
    with pytest.raises(DirectoryInUse):
        file.flush()
    assert os.listdir(tmp_path) == ["a"]


def test_what_the_fence_says_comes_before_what_the_system_said(tmp_path, monkeypatch):
    """A directory that was taken over or is gone is the reason to tell, not that a file could not be opened in it."""

    class Taken:
        generation = 3

        def check(self) -> None:
            raise DirectoryInUse("taken over")

    for call in ("open", "write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, disk_full)
            with pytest.raises(DirectoryInUse):
                write_atomically(tmp_path / "a", "new", Taken())
        assert os.listdir(tmp_path) == []


def test_a_disk_that_keeps_something_else_is_found_out(tmp_path, monkeypatch):
    """It says that it took all bytes."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) - real(descriptor, data[:-1]) + len(data) - 1)
    with pytest.raises(EnvironmentFault, match="what was read back differs from what was written"):
        write_atomically(tmp_path / "a", "12345")
    assert os.listdir(tmp_path) == []


def test_writes_that_take_a_byte_at_a_time_or_are_interrupted(tmp_path, monkeypatch):  # row 38
    real, calls = os.write, 0

    def slow(descriptor: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise InterruptedError
        return real(descriptor, data[:1])

    monkeypatch.setattr(os, "write", slow)
    write_atomically(tmp_path / "a", [b"123", memoryview(b"45")])
    assert (tmp_path / "a").read_text() == "12345"


def test_a_rename_whose_answer_was_lost_has_happened(tmp_path, monkeypatch):  # rule 12
    """A network file system repeats the request and is told that there is no such file."""
    real = os.replace

    def lost(source: Path, target: Path) -> None:
        real(source, target)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))

    monkeypatch.setattr(os, "replace", lost)
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_rename_of_a_file_that_a_successor_removed_has_not(tmp_path, monkeypatch):  # row 54
    real = os.replace
    (tmp_path / "a").write_text("the successor's")

    def swept(source: Path, target: Path) -> None:
        os.unlink(source)
        real(source, target)

    monkeypatch.setattr(os, "replace", swept)
    with pytest.raises(EnvironmentFault, match="No such file"):
        write_atomically(tmp_path / "a", "mine")
    assert (tmp_path / "a").read_text() == "the successor's"


def test_directories_are_made_durably(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    make_directory(tmp_path / "a/b")
    make_directory(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
    assert synced == [str(tmp_path), str(tmp_path / "a")]


def test_a_write_that_stops_half_way(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with no_file_larger_than(1_000), pytest.raises(EnvironmentFault, match=r"a could not be written: .*Free space"):
        write_atomically(path, b"x" * 100_000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_there_is_no_such_directory(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="could not be written"):
        write_atomically(tmp_path / folder / "a", "new")


def test_leftovers(tmp_path):
    """What a killed process leaves goes; what only looks alike stays."""
    for name in (".a.12.tmp", ".step-0000007.safetensors.g1.7.0.tmp", "a.tmp", ".a", ".lock", "a"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".a", ".lock", "a", "a.tmp"]


def test_json(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": "é"}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == value
    assert text.index('"b"') < text.index('"a"')
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == value


def test_explained(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"missing/file: No such file or directory"), explained(tmp_path):
        (tmp_path / "missing" / "file").read_text()
    with pytest.raises(EnvironmentFault, match=f"{tmp_path}: No space left on device"), explained(tmp_path):
        disk_full()
    with pytest.raises(StoreError, match="as it is"), explained(tmp_path):
        raise StoreError("as it is")
