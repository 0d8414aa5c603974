"""`widestep train` and `study run` on a terminal, as a person sees it: the table, what scrolls above, what stays."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading

import pyte
import pytest
from running_jobs import living_children, state

pytestmark = pytest.mark.processes


class Seen:
    """A program on a terminal of its own, whose screen is kept up to date by a thread."""

    def __init__(self, words, environment, columns, rows):
        self.screen = pyte.Screen(columns, rows)
        self._bytes = pyte.ByteStream(self.screen)
        self._drawing = threading.Lock()
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows)
        command = [sys.executable, "-m", "widestep", *map(str, words)]
        self.child = subprocess.Popen(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def resize(self, columns, rows):
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with self._drawing:
            self.screen.resize(rows, columns)

    def _read(self):
        while True:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:  # nobody has the terminal any more
                return
            with self._drawing:
                self._bytes.feed(data)

    @property
    def lines(self):
        with self._drawing:
            return [line.rstrip() for line in self.screen.display]

    def has(self, *words):
        text = "\n".join(self.lines)
        return all(word in text for word in words)

    def end(self, timeout=600):
        code = self.child.wait(timeout)
        self._reader.join(timeout)
        return code

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
        self.end()
        os.close(self._ours)


@pytest.fixture
def look(program):
    """`look("train", ..., columns=80)` starts a program on a terminal."""
    seen = []

    def start(*words, columns=80, rows=40, term="xterm"):
        made = Seen(words, program.environment(TERM=term), columns, rows)
        seen.append(made)
        return made

    yield start
    for made in seen:
        made.close()


LONG = ("train", "--epochs", "400", "--tensorboard", "false", "--evaluate-every", "2ep")


def is_tidy(seen):
    """No table, no region, and a cursor that is to be seen, on an empty row below all that was said."""
    screen = seen.screen
    below = seen.lines[screen.cursor.y :]
    return screen.margins is None and pyte.modes.DECTCEM in screen.mode and not any(below) and "━" not in "".join(seen.lines)


def test_training_with_a_change_of_size_a_stop_and_ctrl_c(look, until, tmp_path):
    seen = look(*LONG, "--processes", 2, "--out", tmp_path / "run")
    until(lambda: seen.has("accuracy", "left", "2 processes:"), "the table is there")
    assert seen.has("widestep ", "model      digits-resnet", "files ")

    def is_whole(num_rows):
        """Seen between two frames: what is read while one arrives is half of it."""
        lines = seen.lines
        is_one = [line for line in lines if line.startswith("━")] == [lines[-num_rows]]
        return is_one and lines[-1].startswith("2 processes: ") and not any("…" in line for line in lines[-6:])

    until(lambda: is_whole(6), "it is the only one, and nothing is cut off")
    seen.resize(40, 24)
    until(lambda: is_whole(12) and all(len(line) < 40 for line in seen.lines[-12:]), "a column of values")
    os.kill(seen.child.pid, signal.SIGTSTP)
    until(lambda: state(seen.child.pid) == "T", "it is stopped")
    until(lambda: is_tidy(seen), "the shell finds a clean terminal")
    os.kill(seen.child.pid, signal.SIGCONT)
    until(lambda: seen.lines[-1].startswith("2 processes: "), "the table is back")
    os.kill(seen.child.pid, signal.SIGINT)
    assert seen.end() == 75
    assert is_tidy(seen)
    assert seen.has("widestep: Stopped by SIGINT")


@pytest.mark.parametrize("process", [0, 1])
def test_a_lost_process(look, until, tmp_path, process):
    seen = look(*LONG, "--processes", 2, "--out", tmp_path / "run", columns=100)
    until(lambda: seen.has("2 processes:", "loss"), "the table is there")
    os.kill(sorted(living_children(seen.child.pid))[process], signal.SIGKILL)
    until(lambda: seen.has(f"restart    process {process} of 2 was ended by SIGKILL", "resumed "), "it is said above")

    def is_one():
        lines = seen.lines
        return lines[-1].startswith("2 processes: ") and sum(line.startswith("━") for line in lines) == 1

    until(is_one, "there is a table again, and only one")
    os.kill(seen.child.pid, signal.SIGTERM)
    assert seen.end() == 75
    assert is_tidy(seen)


SPEAKING = """
import os
import torch

calls = []

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(64, num_classes)

    def forward(self, images):
        calls.append(1)
        if len(calls) % 40 == 0:
            os.write(2, b"written by a library\\n")
        if len(calls) == 300:
            raise ValueError("broken on purpose")
        return self.layer(images.flatten(1))
"""


def test_what_a_library_writes_and_an_error(look, tmp_path):
    (tmp_path / "net.py").write_text(SPEAKING)
    model = ("--model", f"{tmp_path / 'net.py'}:Net")
    seen = look(*LONG, *model, "--restarts", 0, "--out", tmp_path / "run", columns=200)
    assert seen.end() == 2
    assert is_tidy(seen)
    assert seen.has("written by a library")
    assert seen.has("broken on purpose")


def test_a_terminal_that_can_do_nothing(look, tmp_path):
    seen = look("train", "--epochs", "2", "--tensorboard", "false", "--out", tmp_path / "run", term="dumb")
    assert seen.end() == 0
    assert is_tidy(seen)
    assert seen.has("complete ")


def test_a_study(look, until, tiny, tmp_path):
    text = tiny.read_text().replace('"15ep"', '"200ep"').replace("stack = 2", 'stack = 2\nevaluate_every = "1ep"')
    (tmp_path / "long.toml").write_text(text)
    seen = look("study", "run", tmp_path / "long.toml", "--jobs", 2, "--out", tmp_path / "study", columns=70)

    def both_run():
        named = any(line.startswith("short ") and " 0-1 " in line for line in seen.lines)
        return named and seen.has("trials done 0/4", "arm and cell", "long ", "/200")

    until(both_run, "both stacks run")
    os.kill(seen.child.pid, signal.SIGTSTP)
    until(lambda: state(seen.child.pid) == "T", "it is stopped")
    until(lambda: {state(pid) for pid in living_children(seen.child.pid)} == {"T"}, "so are its workers")
    until(lambda: is_tidy(seen), "the shell finds a clean terminal")
    os.kill(seen.child.pid, signal.SIGCONT)
    until(lambda: seen.has("arm and cell"), "the table is back")
    os.kill(seen.child.pid, signal.SIGINT)
    assert seen.end() == 75
    assert is_tidy(seen)
    assert seen.has("Stopped by SIGINT", "progress   0/4 trials")
