"""The table at the bottom of a terminal, as a screen shows it that is told every byte."""

import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import Iterator

import pyte
import pytest
from rich.text import Text

from widestep.cli.live_table import Field, ProgressTable
from widestep.cli.region import Region, is_live, tidy


class Screen:
    """A terminal: what is written to `stream` can be looked at, line by line."""

    def __init__(self, columns=60, rows=16):
        self.ours, theirs = pty.openpty()
        self.stream = os.fdopen(theirs, "w")
        self.screen = pyte.Screen(columns, rows)
        self.bytes = pyte.ByteStream(self.screen)
        self.resize(columns, rows)

    def resize(self, columns, rows):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    @property
    def lines(self):
        os.set_blocking(self.ours, False)
        while True:
            try:
                self.bytes.feed(os.read(self.ours, 1 << 16))
            except BlockingIOError:
                return [line.rstrip() for line in self.screen.display]

    def say(self, *lines):
        os.write(self.stream.fileno(), "".join(f"{line}\n" for line in lines).encode())

    def close(self):
        self.stream.close()
        os.close(self.ours)


@pytest.fixture
def screen(monkeypatch) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", "xterm")
    made = Screen()
    yield made
    made.close()


@pytest.fixture
def region(screen) -> Iterator[Region]:
    made = Region(screen.stream)
    yield made
    made.close()


TWO = Text("one\ntwo")


def test_what_others_write_scrolls_above(screen, region):
    screen.say("before")
    region.draw(TWO)
    for number in range(30):
        screen.say(f"line {number}")
        if number % 3 == 0:
            region.draw(TWO)
    assert screen.lines == [*(f"line {number}" for number in range(17, 30)), "", "one", "two"]


def test_it_leaves_nothing_behind(screen, region):
    screen.say("before")
    region.draw(TWO)
    screen.say("after")
    region.close()
    screen.say(*(f"line {number}" for number in range(14)))
    assert screen.lines == ["after", *(f"line {number}" for number in range(14)), ""]
    assert screen.screen.margins is None
    assert pyte.modes.DECTCEM in screen.screen.mode  # the cursor is to be seen


def test_a_screen_that_is_full_makes_room(screen, region):
    screen.say(*(f"line {number}" for number in range(20)))
    region.draw(TWO)
    assert screen.lines == [*(f"line {number}" for number in range(7, 20)), "", "one", "two"]


@pytest.mark.parametrize("size", [(40, 16), (60, 10), (100, 30), (25, 9)])
def test_after_a_change_of_size_it_is_at_the_bottom_again(screen, region, size):
    screen.say("first", "second")
    region.draw(TWO)
    screen.lines  # noqa: B018 - the screen has taken all of it
    screen.resize(*size)
    region.draw(TWO)
    screen.say("third")
    lines = screen.lines
    assert lines[-2:] == ["one", "two"]
    written = [line for line in lines if line]
    assert len(written) >= 3  # a lower screen has lost its upper rows
    assert written == ["first", "second", "third", "one", "two"][-len(written) :]


def test_it_grows_and_shrinks(screen, region):
    screen.say("first")
    region.draw(TWO)
    region.draw(Text("\n".join("abcdef")))
    assert screen.lines == ["first", *[""] * 9, *"abcdef"]
    region.draw(TWO)
    screen.say("second")
    assert screen.lines == ["first", "second", *[""] * 12, "one", "two"]


def test_a_table_that_is_too_high_leaves_room_for_what_scrolls(screen, region):
    region.draw(Text("\n".join(f"row {number}" for number in range(50))))
    screen.say("said")
    assert screen.lines == ["said", *[""] * 5, *(f"row {number}" for number in range(10))]


def test_long_lines_are_cut_and_wrap_nowhere(screen, region):
    region.draw(ProgressTable(0.5, [Field("name", "x" * 200)] * 3))
    assert all(len(line) < 60 for line in screen.lines)
    assert screen.lines[-3].startswith("━")


def test_after_a_stop_it_begins_anew_where_the_cursor_is(screen, region, monkeypatch):
    """Ctrl-Z: the shell writes where the table was; after `fg` the table stands below it."""
    stopped = []
    monkeypatch.setattr("widestep.cli.region.os.kill", lambda *words: stopped.append((words, screen.lines)))
    screen.say("before")
    region.draw(TWO)
    signal.raise_signal(signal.SIGTSTP)
    assert stopped == [((os.getpid(), signal.SIGSTOP), ["before", *[""] * 15])]
    screen.say("[1]+  Stopped", "$ fg")
    signal.raise_signal(signal.SIGCONT)
    region.draw(TWO)
    screen.say("after")
    assert screen.lines == ["before", "[1]+  Stopped", "$ fg", "after", *[""] * 10, "one", "two"]


def test_whoever_was_stopped_from_outside_begins_anew(screen, region):
    """As a process of `widestep train`: its launcher stops it and takes its table down."""
    region.draw(TWO)
    tidy(screen.stream)
    screen.say("[1]+  Stopped", "$ fg")
    signal.raise_signal(signal.SIGCONT)
    region.draw(TWO)
    screen.say(*(f"line {number}" for number in range(20)))
    assert screen.lines[-3:] == ["", "one", "two"]


def test_what_a_killed_process_left_is_taken_down(screen, region):
    screen.say("before")
    region.draw(TWO)
    tidy(screen.stream)
    screen.say("restart    process 0 of 2 was ended by SIGKILL")
    assert screen.lines == ["before", "restart    process 0 of 2 was ended by SIGKILL", *[""] * 14]
    assert screen.screen.margins is None


@pytest.mark.parametrize("kind", ["dumb", "", "unknown"])
def test_terminals_that_cannot_get_plain_lines(screen, monkeypatch, kind):
    assert is_live(screen.stream)
    monkeypatch.setenv("TERM", kind)
    assert not is_live(screen.stream)
    tidy(screen.stream)
    assert screen.lines == [""] * 16


def test_files_pipes_and_tiny_terminals_get_plain_lines(screen, tmp_path):
    with (tmp_path / "log").open("w") as file:
        assert not is_live(file)
    screen.resize(60, 5)
    assert not is_live(screen.stream)


def test_no_colour_where_none_is_wanted(screen, region, monkeypatch):
    def colours():
        region.draw(ProgressTable(0.5, [Field("a name", "1")], [Text("bad", style="red")]))
        screen.lines  # noqa: B018
        return {screen.screen.buffer[row][column].fg for row in range(16) for column in range(60)}

    assert colours() != {"default"}
    monkeypatch.setenv("NO_COLOR", "1")
    assert colours() == {"default"}


@pytest.mark.parametrize(("columns", "rows"), [(40, 5), (80, 3), (120, 2)])
def test_values_stand_side_by_side_where_there_is_room(screen, region, columns, rows):
    screen.resize(columns, 24)
    region.draw(ProgressTable(0.25, [Field(f"name {number}", str(number)) for number in range(4)]))
    lines = [line for line in screen.lines if line]
    assert len(lines) == rows
    assert lines[0].endswith("25 %")
    assert " ".join(" ".join(lines[1:]).split()) == "name 0 0 name 1 1 name 2 2 name 3 3"
