import errno
import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from widestep.errors import DirectoryInUse, EnvironmentFault, StoreError
from widestep.files import (
    DirectoryLock,
    LineFile,
    explained,
    read_json_lines,
    remove_leftovers,
    write_atomically,
    write_json,
)


def disk_full(*_args: object, **_named: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_args: object, **_named: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def no_file_larger_than(num_bytes: int):
    """The operating system itself refuses to write more: EFBIG, after the part that fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_write_and_replace(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "grün")
    assert path.read_bytes() == "grün".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a"]


def test_the_order_that_makes_a_write_durable(tmp_path, monkeypatch):
    """The content reaches the disk before the name does, and the name before we go on."""
    calls, path = [], tmp_path / "a"
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(path, "12345")
    assert calls == [5, "rename", "directory"]


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace"), (Path, "open")])
@pytest.mark.parametrize(("fault", "error"), [(disk_full, EnvironmentFault), (interrupted, KeyboardInterrupt)])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(owner, call, fault, error, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fault)
        with pytest.raises(error):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


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
    for name in (".a.12.tmp", ".last.safetensors.7.tmp", "a.tmp", ".a", ".lock", "a"):
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


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    assert list(read_json_lines(path)) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    assert list(read_json_lines(path)) == [{"a": 1}, {"a": 2}]
    path.write_bytes(b'{"a": 1}\n{"a": "\xc3')
    assert list(read_json_lines(path)) == [{"a": 1}]
    path.write_text('{"a": 1}')
    assert list(read_json_lines(path)) == []


@pytest.mark.parametrize("damage", [b'{"a": 1}{"a', b"\xff\xfe", b"\0\0\0\0", b"", b"nonsense"])
def test_damage_in_the_middle_is_not_passed_over(damage, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + damage + b'\n{"a": 2}\n')
    with pytest.raises(StoreError, match=r"a\.jsonl holds a record a line\. Line 2 is damaged"):
        list(read_json_lines(path))


def lines_after(path: Path, content: bytes, length: int | None, *lines: str) -> bytes:
    path.write_bytes(content)
    file = LineFile(path, length)
    for line in lines:
        file.append(line)
    assert file.length() == path.stat().st_size
    file.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "length", "kept"),
    [
        (b"", None, b""),
        (b"", 0, b""),
        (b"", 100, b""),
        (b"one\ntwo\n", None, b"one\ntwo\n"),
        (b"one\ntwo\n", 8, b"one\ntwo\n"),
        (b"one\ntwo\n", 4, b"one\n"),  # what came after the checkpoint
        (b"one\ntwo\nthr", 4, b"one\n"),
        (b"one\ntwo\n", 0, b""),
        (b"one\ntw", None, b"one\n"),  # torn
        (b"one\ntw", 100, b"one\n"),  # shorter than the checkpoint says, and torn
        (b"one\ntwo\n", 100, b"one\ntwo\n"),
        (b"torn", None, b""),
        (b"1\n" + b"x" * 200_000, None, b"1\n"),
        (b"1\n" + b"x" * 65_535, None, b"1\n"),
        (b"1\n" + b"x" * 65_536, None, b"1\n"),
        (b"x" * 200_000, None, b""),
    ],
)
def test_what_a_line_file_keeps(content, length, kept, tmp_path):
    assert lines_after(tmp_path / "a", content, length) == kept
    assert lines_after(tmp_path / "a", content, length, "new", "é") == kept + "new\né\n".encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n")), max_size=6), data=st.data())
def test_a_line_file_cut_anywhere_holds_whole_lines(lines, data, tmp_path):
    """Whatever is left of it after a crash: the next line is a line of its own."""
    whole = "".join(f"{line}\n" for line in lines).encode()
    content = whole[: data.draw(st.integers(0, len(whole)))]
    found = lines_after(tmp_path / "a", content, None, "next").split(b"\n")
    assert found[-2:] == [b"next", b""]
    assert found[:-2] == [line.encode() for line in lines][: len(found) - 2]


def test_lines_wait_in_memory_until_asked_for(tmp_path):
    file = LineFile(tmp_path / "a")
    file.append("one")
    assert (tmp_path / "a").stat().st_size == 0
    assert file.length() == 4
    assert (tmp_path / "a").read_text() == "one\n"
    file.close()


def test_a_line_file_on_a_full_disk(tmp_path):
    """Exit code 5 and a sentence; what was torn is gone at the next start."""
    path = tmp_path / "a"
    file = LineFile(path)
    with no_file_larger_than(1_000):
        for number in range(100):
            file.append(f"{number:020d}")
        with pytest.raises(EnvironmentFault, match="a: File too large"):
            file.length()
        with pytest.raises(EnvironmentFault, match="a: File too large"):
            file.close()
    assert path.stat().st_size == 1_000  # 47 lines of 21 bytes, and 13 bytes of the next
    LineFile(path).close()
    assert path.read_text().splitlines() == [f"{number:020d}" for number in range(47)]


HOLD = """
import os, sys
from pathlib import Path
from widestep.errors import WidestepError
from widestep.files import DirectoryLock
try:
    lock = DirectoryLock(Path(sys.argv[1]))
except WidestepError as error:
    print(error)
    sys.exit(error.exit_code)
if sys.argv[2:] == ["child"] and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


def other_process(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(directory), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_second_process_is_refused(tmp_path):
    with DirectoryLock(tmp_path):
        said, _ = (other := other_process(tmp_path)).communicate()
    assert other.returncode == 7
    assert f"{tmp_path} is held by host {os.uname().nodename}, process {os.getpid()}; wait for it or choose" in said
    with other_process(tmp_path) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DirectoryInUse, match=f"process {other.pid};"):
            DirectoryLock(tmp_path)
        other.stdin.close()
        assert other.wait() == 0
    DirectoryLock(tmp_path).release()


def test_a_killed_process_holds_nothing(tmp_path):
    """Nor does a child that it leaves behind."""
    with other_process(tmp_path, "child") as other:
        assert other.stdout.readline() == "held\n"
        other.kill()
        assert other.wait() == -signal.SIGKILL
        with DirectoryLock(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
        other.stdin.close()  # ends the child


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def no_locks(*_args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("widestep.files.fcntl.lockf", no_locks)
    with pytest.raises(EnvironmentFault, match=r"cannot be locked: No locks available\."):
        DirectoryLock(tmp_path)


def test_explained(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"missing/file: No such file or directory"), explained(tmp_path):
        (tmp_path / "missing" / "file").read_text()
    with pytest.raises(EnvironmentFault, match=f"{tmp_path}: No space left on device"), explained(tmp_path):
        disk_full()
    with pytest.raises(StoreError, match="as it is"), explained(tmp_path):
        raise StoreError("as it is")
