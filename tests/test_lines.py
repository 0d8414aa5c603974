import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from failing_disks import disk_full, no_file_larger_than
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from widestep import lines
from widestep.errors import EnvironmentFault, StoreError
from widestep.lines import LineFile, read_json_lines


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
    """What fits is written, the rest waits, and goes on exactly there when space is back: no line is torn (row 36)."""
    path = tmp_path / "a"
    file = LineFile(path)
    with no_file_larger_than(1_000):
        for number in range(100):
            file.append(f"{number:020d}")
        assert not file.flush()
        assert file.failure is not None
        with pytest.raises(EnvironmentFault, match=r"a could not be written: File too large \([\d,]+ bytes are free"):
            file.length()
        assert path.stat().st_size == 1_000  # 47 lines of 21 bytes, and 13 bytes of the next
        file.append("after")
    assert file.flush()
    assert file.failure is None
    file.close()
    assert path.read_text().splitlines() == [*(f"{number:020d}" for number in range(100)), "after"]


def test_what_a_full_disk_left_is_cut_off_at_the_next_start(tmp_path):
    path = tmp_path / "a"
    file = LineFile(path)
    with no_file_larger_than(1_000):
        for number in range(100):
            file.append(f"{number:020d}")
        with pytest.raises(EnvironmentFault, match="File too large"):
            file.close()
    LineFile(path).close()
    assert path.read_text().splitlines() == [f"{number:020d}" for number in range(47)]


def test_lines_beyond_what_may_wait_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_MOST_WAITING", 100)
    file = LineFile(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk_full)
        for number in range(12):
            file.append(f"{number:09d}")
        assert not file.flush()
    file.close()
    assert (tmp_path / "a").read_text().splitlines() == [f"{number:09d}" for number in range(10)]
    assert file.num_lost == 2


def test_after_a_failed_fsync_lines_are_written_again(tmp_path, monkeypatch):  # row 38
    """The operating system may have dropped what it had taken; only what an fsync has confirmed is not written twice."""
    path, written = tmp_path / "a", []
    real = os.write

    def noted(descriptor: int, data: bytes) -> int:
        written.append(bytes(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", noted)
    file = LineFile(path)
    file.append("certain")
    file.sync()
    file.append("taken")
    assert file.flush()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_full)
        with pytest.raises(EnvironmentFault, match="No space left on device"):
            file.sync()
    path.write_text("certain\n")  # dropped
    file.append("new")
    file.sync()
    file.close()
    assert written == [b"certain\n", b"taken\n", b"taken\nnew\n"]
    assert path.read_text() == "certain\ntaken\nnew\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_disk_does_lines_are_whole_and_in_order(data, tmp_path, monkeypatch):
    """Short writes, refusals and failed fsyncs in any order; in the end all is there once."""
    path = tmp_path / "a"
    path.unlink(missing_ok=True)
    real, lines = os.write, []

    def moody(descriptor: int, content: bytes) -> int:
        if threading.current_thread() is not threading.main_thread():
            return real(descriptor, content)
        taken = data.draw(st.integers(-1, len(content)))
        if taken <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if taken else InterruptedError
        return real(descriptor, content[:taken])

    file = LineFile(path)
    for act in data.draw(st.lists(st.sampled_from(["append", "flush", "sync", "fail"]), max_size=12)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", moody)
            if act == "append":
                lines.append(data.draw(st.text("ab", max_size=5)))
                file.append(lines[-1])
            elif act == "flush":
                file.flush()
            else:
                if act == "fail":
                    patch.setattr(os, "fsync", disk_full)
                with suppress(EnvironmentFault):
                    file.sync()
        found = path.read_bytes()
        assert "".join(f"{line}\n" for line in lines).encode().startswith(found)
    file.close()
    assert path.read_text() == "".join(f"{line}\n" for line in lines)


def test_one_thread_appends_while_another_syncs(tmp_path):
    file = LineFile(tmp_path / "a")
    stop, failures = threading.Event(), []

    def synced() -> None:
        while not stop.is_set():
            try:
                file.sync()
            except Exception as error:  # noqa: BLE001 - whatever it is
                failures.append(error)

    thread = threading.Thread(target=synced)
    thread.start()
    for number in range(5_000):
        file.append(f"{number}")
        if number % 10 == 0:
            file.flush()
    stop.set()
    thread.join()
    file.close()
    assert not failures
    assert (tmp_path / "a").read_text() == "".join(f"{number}\n" for number in range(5_000))
