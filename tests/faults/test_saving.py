"""Saving when the disk is full, read-only or gone, through the command (rows 35-40, 42-45, 56, 57; rules 1-3, 9).

Where a real disk is needed, a small one in memory is mounted for one command alone.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import widestep
from widestep.train import checkpoint, saving

FIELDS = {
    "recipe": "digits",
    "train_images": 200,
    "epochs": "4",
    "warmup": "0",
    "val_images": 100,
    "tensorboard": "false",
    "dropout": 0.1,
    "checkpoint_every": "5st",
}
STEPS = 24


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def train(command: Any, options: Any, tmp_path: Path) -> Callable[..., Any]:
    return lambda **fields: command("train", *options({**FIELDS, "out": tmp_path / "run", **fields}))


@pytest.fixture(scope="module")
def whole(program: Any, options: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of the uninterrupted run."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    done = program("train", *options({**FIELDS, "out": directory}))
    assert done.code == 0, done.stderr
    return weights(directory)


def weights(directory: Path) -> str:
    return str(json.loads((directory / "result.json").read_text())["weights_sha256"])


def steps(directory: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


def last_line(text: str) -> str:
    return text.splitlines()[-1]


class Full:
    """A disk that has no space for some writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
        self.names, self.num_refused, self.most = "", 0, 10**9
        real = os.write

        def write(descriptor: int, data: Any) -> int:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            if self.names and re.search(self.names, name) and self.num_refused < self.most:
                self.num_refused += 1
                raise OSError(number, os.strerror(number))
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.EFBIG])
def test_states_that_find_no_space_end_nothing(
    train: Any, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:  # rows 35, 37, 38, 39
    full = Full(monkeypatch, number)
    full.names = r"/\.step-00000"
    done = train()
    assert (done.code, weights(tmp_path / "run")) == (0, whole)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note") and "not saved" in line]
    assert len(notes) == 1, "said once"
    assert f"step-0000005.safetensors could not be written: {os.strerror(number)} (" in notes[0]
    assert "bytes are free)" in notes[0]
    assert full.num_refused == 4
    assert "step 5 is not saved" in (tmp_path / "run/log.txt").read_text()
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_state_is_saved_again_when_there_is_space(
    train: Any, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # row 35
    full = Full(monkeypatch)
    full.names, full.most = r"/\.step-00000", 2
    done = train()
    assert (done.code, weights(tmp_path / "run")) == (0, whole)
    assert "note       saving works again: step 15 is saved" in done.stderr
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 2


def test_records_wait_for_space(train: Any, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # row 36
    """Metrics, log and history; none is torn, none is missing in the end."""
    full = Full(monkeypatch)
    full.names, full.most = r"/(metrics\.jsonl|log\.txt|history\.jsonl)$", 40
    done = train()
    assert (done.code, weights(tmp_path / "run")) == (0, whole)
    assert full.num_refused > 10
    assert "metrics.jsonl could not be written: No space left on device" in done.stderr
    assert steps(tmp_path / "run") == list(range(STEPS))
    events = (tmp_path / "run/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in events] == ["started", "complete"]


@pytest.mark.parametrize("names", [r"/run/", r"\.final\.safetensors", r"/\.result\.json", r"/\.STATUS", r"metrics\.jsonl$"])
def test_a_disk_that_stays_full_to_the_end_is_an_error(
    train: Any, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:  # rows 35, 36
    """Exit code 5, not a success; with space again the same command comes to the same end."""
    with monkeypatch.context() as patch:
        full, real = Full(patch), saving.Saver.begin

        def begin(*arguments: Any) -> None:  # from the first save on
            full.names = names
            real(*arguments)

        patch.setattr(saving.Saver, "begin", begin)
        done = train()
    assert done.code == 5
    assert last_line(done.stderr).startswith("widestep: ")
    assert "could not be written: No space left on device" in last_line(done.stderr)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run/STATUS").read_text() != "complete\n"
    again = train()
    assert (again.code, weights(tmp_path / "run"), steps(tmp_path / "run")) == (0, whole, list(range(STEPS)))


def test_a_stop_without_space_for_a_state_is_no_saved_stop(
    train: Any, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # row 35
    with monkeypatch.context() as patch:
        full, real = Full(patch), saving.Saver.begin

        def begin(saver: Any, step: int, copy: Any) -> None:
            if step == 10:
                full.names = r"/\.step-00000"
                os.kill(os.getpid(), signal.SIGTERM)
            real(saver, step, copy)

        patch.setattr(saving.Saver, "begin", begin)
        done = train()
    assert done.code == 5
    assert "could not be written: No space left on device" in last_line(done.stderr)
    again = train()
    assert (again.code, weights(tmp_path / "run")) == (0, whole)


@pytest.fixture
def unfinished(train: Any, tmp_path: Path) -> Path:
    """A run that was saved at steps 15 and 20 but, as far as its files say, never finished."""
    assert train().code == 0
    (tmp_path / "run/result.json").unlink()
    (tmp_path / "run/STATUS").write_text("running\n")
    return tmp_path / "run"


def test_a_damaged_state_is_told_and_the_one_before_is_used(train: Any, unfinished: Path, whole: str) -> None:  # row 40
    path = unfinished / "checkpoints/step-0000020.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = train()
    line = "note       checkpoints/step-0000020.safetensors is damaged (size), using step-0000015"
    assert line in done.stderr.splitlines()
    assert (done.code, weights(unfinished), steps(unfinished)) == (0, whole, list(range(STEPS)))
    assert (unfinished / "checkpoints/step-0000020.safetensors.damaged").exists()


def test_states_that_are_all_damaged_are_not_begun_again(train: Any, unfinished: Path) -> None:  # row 44
    for path in (unfinished / "checkpoints").glob("step-*"):
        path.write_bytes(b"")
    done = train()
    assert done.code == 6
    for step in (15, 20):
        assert f"checkpoints/step-00000{step}.safetensors is damaged (size)" in last_line(done.stderr)
    assert steps(unfinished) == list(range(STEPS)), "the records are as they were"


@pytest.mark.parametrize("fate", ["missing", "damaged"])
def test_best_weights_that_are_lost_are_told(train: Any, unfinished: Path, whole: str, fate: str) -> None:  # row 42
    """As rows 40 and 42: what the result will speak of is no longer there."""
    best = unfinished / "checkpoints/best.safetensors"
    best.unlink() if fate == "missing" else best.write_bytes(best.read_bytes()[:-1])
    done = train()
    (told,) = [line for line in done.stderr.splitlines() if "best.safetensors is " in line]
    assert told.startswith(f"note       checkpoints/best.safetensors is {fate}")
    assert told.endswith(": the best weights so far are lost, and kept again when later ones are better")
    assert (done.code, weights(unfinished)) == (0, whole)


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_a_directory_of_states_that_is_gone_is_not_begun_again(
    train: Any, unfinished: Path, tmp_path: Path, status: str
) -> None:  # rows 42, 44
    (unfinished / "STATUS").write_text(f"{status}\n")
    (unfinished / "checkpoints").rename(tmp_path / "elsewhere")
    done = train()
    assert done.code == 6
    assert f"widestep: A run goes on from what it saved. {unfinished}/checkpoints is gone" in last_line(done.stderr)
    assert steps(unfinished) == list(range(STEPS)), "the records are as they were"
    (tmp_path / "elsewhere").rename(unfinished / "checkpoints")
    assert train().code == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("STATUS", b"\xff\xfe\x80"),
        ("environment.json", b'[1, 2, {"a": null}]'),
        ("environment.json", b"\xff"),
        ("history.jsonl", b"[3]\n"),
        ("recipe.toml", b"grid = "),
        ("recipe.toml", b"\x00" * 50),
    ],
)
def test_a_record_that_is_something_else_is_named(train: Any, unfinished: Path, name: str, content: bytes) -> None:  # row 42
    (unfinished / name).write_bytes(content)
    done = train()
    assert done.code == 6, done.stderr
    assert str(unfinished / name) in last_line(done.stderr)


EACH = ["recipe.toml", "environment.json", "STATUS", "command.txt", "log.txt", "metrics.jsonl", "ledger.jsonl", "epochs.csv"]
EACH += [
    "history.jsonl",
    ".lock",
    "checkpoints/step-0000020.safetensors",
    "checkpoints/best.safetensors",
    "checkpoints/.saved",
]


@pytest.mark.parametrize("fate", ["missing", "empty"])
@pytest.mark.parametrize("name", EACH)
def test_any_file_may_be_missing_or_empty(train: Any, unfinished: Path, whole: str, name: str, fate: str) -> None:  # row 42
    """The run goes on to the same weights, or one line names the file; never a traceback, never other weights."""
    (unfinished / name).unlink()
    if fate == "empty":
        (unfinished / name).write_bytes(b"")
    done = train()
    assert "Traceback" not in done.stderr
    if done.code == 0:
        assert weights(unfinished) == whole
    else:
        assert name in ("recipe.toml", "environment.json")
        assert done.code in (2, 6)
        assert last_line(done.stderr).startswith("widestep: ")
        assert name in last_line(done.stderr)


def test_what_a_killed_process_left_is_removed(train: Any, unfinished: Path, whole: str) -> None:  # row 43
    left = [unfinished / ".STATUS.g1.77.0.tmp", unfinished / "checkpoints/.step-0000021.safetensors.g1.77.1.tmp"]
    for path in left:
        path.write_bytes(b"half")
    assert train().code == 0
    assert weights(unfinished) == whole
    assert not any(path.exists() for path in left)


def test_a_state_of_another_recipe_is_refused(train: Any, unfinished: Path, tmp_path: Path) -> None:  # row 45
    assert train(seed=1, out=tmp_path / "other").code == 0
    for path in (tmp_path / "other/checkpoints").glob("step-*"):
        shutil.copy(path, unfinished / "checkpoints")
    done = train()
    assert done.code == 6
    assert "belongs to recipe" in last_line(done.stderr)


def test_a_directory_moved_between_two_starts_goes_on(
    train: Any, unfinished: Path, whole: str, tmp_path: Path
) -> None:  # row 56
    unfinished.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    done = train(out=tmp_path / "link")
    assert (done.code, weights(tmp_path / "moved")) == (0, whole)
    assert not unfinished.exists()


@pytest.mark.parametrize("fate", ["deleted", "moved"])
@pytest.mark.parametrize("moment", ["between two saves", "before a state is written"])
def test_a_directory_that_goes_away_is_not_made_again(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str, moment: str
) -> None:  # row 56
    begin, write, run = saving.Saver.begin, saving.Copied.write, tmp_path / "run"

    def go_away() -> None:
        shutil.rmtree(run) if fate == "deleted" else run.rename(tmp_path / "moved")

    def begins(saver: Any, step: int, copy: Any) -> None:
        if step == 10:
            saver.wait()  # no other thread changes what is being deleted
            go_away()
        begin(saver, step, copy)

    def writes(copied: Any, keep: int) -> None:
        if copied.step == 10:
            go_away()
        write(copied, keep)

    if moment == "between two saves":
        monkeypatch.setattr(saving.Saver, "begin", begins)
    else:
        monkeypatch.setattr(saving.Copied, "write", writes)
    done = train()
    assert done.code == 5
    assert last_line(done.stderr).startswith("widestep: A run directory must stay in its place")
    assert not run.exists()


@pytest.mark.parametrize("name", ["best.safetensors", "final.safetensors"])
def test_a_directory_that_goes_away_under_a_file_is_said_to_be_gone(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:  # row 56
    """Not that the file needs space: there is nothing to open it in."""
    real, run = checkpoint.write, tmp_path / "run"

    def write(path: Path, *content: Any) -> None:
        if path.name == name and run.exists():
            run.rename(tmp_path / "moved")
        real(path, *content)

    monkeypatch.setattr(checkpoint, "write", write)
    done = train()
    assert done.code == 5
    assert last_line(done.stderr).startswith("widestep: A run directory must stay in its place")
    assert not run.exists()


def test_no_decision_about_states_is_taken_by_the_clock_of_the_day() -> None:  # row 57, rule 9
    """Durations are monotonic, the order of states is that of their steps: times of files and of the day are for people."""
    forbidden = re.compile(r"\btime\.time\(|st_mtime|st_ctime|getmtime|getctime|\butime\(")
    package = Path(widestep.__file__).parent
    sources = [*package.glob("*.py"), *(package / "records").glob("*.py"), *(package / "train").glob("*.py")]
    assert [path.name for path in sources if forbidden.search(path.read_text(encoding="utf-8"))] == []


def test_times_of_files_mean_nothing(train: Any, unfinished: Path, whole: str) -> None:  # row 57
    """The newest state is older by its time than all others, which lie in the future."""
    future = time.time() + 86_400 * 365
    for path in unfinished.rglob("*"):
        os.utime(path, (future, future))
    os.utime(unfinished / "checkpoints/step-0000020.safetensors", (1, 1))
    done = train()
    assert "resumed    at step 20 of 24" in done.stderr
    assert (done.code, weights(unfinished)) == (0, whole)


@pytest.fixture
def on_small_disk(program: Any, power_cut: Any, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a shell script where `$D` is a disk of so many KiB and `$T` trains; skips where nothing can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def run(script: str, kib: int) -> "subprocess.CompletedProcess[str]":
        mount = f"mount -t tmpfs -o size={kib}k tmpfs {place} || exit 99\n"
        words = {name: str(value) for name, value in FIELDS.items() if name != "epochs"}
        train = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in words.items())
        variables = f"D={place}; T='{sys.executable} -m widestep train {train} --out {place}/run'\n"
        command = ["unshare", "-m", "sh", "-c", mount + variables + script]
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            command, env=program.environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        try:
            stdout, stderr = child.communicate(timeout=600)
        finally:
            power_cut(child)
        done = subprocess.CompletedProcess(command, child.returncode, stdout, stderr)
        if "Operation not permitted" in done.stderr or done.returncode == 99:
            pytest.skip("no disk can be mounted here")
        return done

    if shutil.which("unshare") is None:
        pytest.skip("no program unshare")
    return run


@pytest.mark.processes
def test_a_disk_that_is_really_full(on_small_disk: Any, whole: str) -> None:  # rows 35, 36
    """It is filled after the first save; with space again the same command comes to the same end."""
    script = """
    $T --epochs 400 2>$D/../err & P=$!
    while [ $(ls $D/run/checkpoints 2>/dev/null | grep -c ^step) -lt 2 ] && kill -0 $P; do sleep 0.05; done
    dd if=/dev/zero of=$D/fill bs=1k 2>/dev/null
    sleep 1; dd if=/dev/zero of=$D/rest bs=1k 2>/dev/null  # what the save under way gave back
    kill -TERM $P; wait $P; echo code $?
    tail -1 $D/../err
    grep -c "is not saved" $D/../err
    rm $D/fill $D/rest $D/../err; rm -r $D/run
    $T --epochs 4 && cat $D/run/result.json
    """
    done = on_small_disk(script, 2_000)
    lines = done.stdout.splitlines()
    assert lines[0] == "code 5", done.stderr
    assert lines[1].startswith("widestep: ")
    assert re.search(r"No space left on device \([\d,]+ bytes are free\)", lines[1])
    assert int(lines[2]) >= 1
    assert whole in done.stdout


@pytest.mark.processes
@pytest.mark.parametrize("new", [0, 1])
def test_a_disk_that_is_read_only(on_small_disk: Any, new: int) -> None:  # row 37
    """One line before training, for a new run and for one that was begun."""
    script = """
    [ $NEW = 1 ] || $T --epochs 4 >/dev/null 2>&1 || echo failed
    rm -f $D/run/result.json; mount -o remount,ro $D
    $T --epochs 4; echo code $?
    """
    done = on_small_disk(f"NEW={new}\n{script}", 4_000)
    assert done.stdout.splitlines() == ["code 5"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("widestep: ")
    assert "Read-only file system" in line


@pytest.mark.processes
def test_a_limit_on_the_size_of_files(program: Any, options: Any, tmp_path: Path) -> None:  # row 39
    """SIGXFSZ is ignored; 50 KiB are enough for a state, but not for the records of all steps."""
    words = " ".join(options({**FIELDS, "epochs": "60", "out": tmp_path / "run"}))
    command = ["sh", "-c", f"ulimit -f 100; exec {sys.executable} -m widestep train {words}"]
    done = subprocess.run(command, env=program.environment(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 5
    assert last_line(done.stderr).startswith("widestep: ")
    assert "could not be written: File too large" in last_line(done.stderr)
    assert done.stderr.count("is not saved: ") == 1
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 2
