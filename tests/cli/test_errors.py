"""Errors: the exit code by their kind, one line that begins with the program's name, and a hint where one was near."""

import signal
import socket
import subprocess
import sys

import pytest

from widestep import errors
from widestep.errors import WidestepError

NO_FOLDER = "--recipe poster --data folder:nowhere --grid 1x2x8"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian", 'Unknown command "trian". Perhaps you meant "train"?'),
        ("study rnu", 'Unknown command "rnu". Perhaps you meant "run"?'),
        ("--verion", "--verion"),
        ("lr --recipe postr", "Got 'postr'. Perhaps you meant 'poster'."),
        ("lr --momentun 0.9", "--momentun is no option. Perhaps you meant 'momentum'."),
        ("lr --warm-up 3 --gird 1x1x1", "Perhaps you meant 'warmup'. --gird is no option. Perhaps you meant 'grid'."),
        ("lr --zzz 1", "--zzz is no option. `widestep recipes fields` lists all fields."),
        ("train --lerning-rate 3", "--lerning-rate is no option."),
        ("train --recipe digitz", "Perhaps you meant 'digits'."),
        ("recipes show digits-itr", "Perhaps you meant 'digits-iter'."),
        ("study plan poster-digit", "Perhaps you meant 'poster-digits'."),
        ("study plan --momentun 0.9", "'momentun' is not a field of the recipe. Perhaps you meant 'momentum'."),
        ("lr --optimizer sdg", "optimizer (in the recipe): "),
        ("lr --base-lr fast", "Got 'fast'."),
        ("lr --base-lr nan", "Got 'nan'."),
        ("lr --base-lr 0", "Got '0'."),
        ("lr --grid 40x6", "A grid reads NODESxWORKERSxIMAGES, for example 40x6x128. Got '40x6'."),
        ("lr --grid 0x1x1", "A grid reads NODESxWORKERSxIMAGES, for example 40x6x128. Got '0x1x1'."),
        ("lr --grid 400x1x8", "An epoch must hold at least one global batch. 960 training images are fewer than 3,200"),
        ("lr --warmup=-3ep", "A duration is a number of epochs, steps or images"),
        ("lr --seed -1", "Got '-1'."),
        ("lr --seed 1.5", "Got '1.5'."),
        ("lr --epochs 0", "epochs is 0; give for example 1ep or 600st."),
        ("lr --momentum 1.0", "Got '1.0'."),
        ("lr --data digit", "perhaps you meant 'digits'."),
        ("lr --train-images 5", "Of the 1,797 digits, 10 to 1,787 can train"),
        ("lr --scaling per-worker", "has one worker as its reference, so reference_batch must be left out."),
        ("lr --grid", "--grid requires an argument."),
        ("lr --grid 4x1x8 --grid 4x1x8", "--grid specified multiple times."),
        ("lr --json=perhaps", "--json"),
        ("lr more", "Got 'more' besides; leave that out."),
        ("train --processes 0", "processes (in the execution): "),
        ("train --checkpoint-every soon", "A cadence is a number of seconds, steps or epochs: 60s, 200st or 1ep; or auto."),
        ("train --device gpu", "device (in the execution): "),
        ("study plan --seeds 13", "has 12 seeds; --seeds takes 1 to that many. Got 13."),
        ("study plan --seeds many", "--seeds"),
        ("study plan --jobs 0", "--jobs is 0; give 1 or more"),
        ("study run --jobs -2", "--jobs is -2; give 1 or more"),
        ("study plan --warmup 3ep", "Arm warmup-10 of study poster-digits decides warmup itself"),
        ("study run poster", "imagenet, which is not shipped; give the folder that holds train and val with --data"),
        ("study status nowhere", "nowhere does not; start it with `widestep study run`."),
        ("study retry nowhere", "nowhere does not; start it with `widestep study run`."),
        ("study work nowhere", "nowhere does not; start it with `widestep study run`."),
        ("eval nowhere", "Got nowhere."),
        ("eval nowhere/checkpoints/best.safetensors", "A run directory holds recipe.toml. nowhere does not"),
        ("eval", "requires an argument"),
        ("report nowhere", "A run directory holds recipe.toml. nowhere does not"),
        ("report", "requires an argument"),
        ("verify --processes one", "--processes takes numbers of processes, for example 1,2,3. Got 'one'."),
        ("verify --processes 0", "--processes takes numbers of processes, for example 1,2,3. Got '0'."),
        ("verify --processes 2,,3", "--processes takes numbers of processes, for example 1,2,3. Got '2,,3'."),
        ("verify --recipe digitz", "Perhaps you meant 'digits'."),
    ],
)  # fmt: skip
def test_what_was_asked_for_cannot_be(say, empty, words, sentence):
    found = say(words)
    assert found.code == 2
    assert found.stdout == ""
    assert found.stderr.startswith("widestep: ")
    assert sentence in found.stderr
    assert found.stderr.count("\n") == 1
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    "words", [f"lr {NO_FOLDER}", f"train {NO_FOLDER} --dry-run", "study plan poster --data folder:nowhere"]
)
def test_a_missing_folder_of_images(say, empty, words):
    found = say(words)
    assert found.code == 3
    assert found.stdout == ""
    assert found.stderr.startswith("widestep: ")
    assert "nowhere" in found.stderr
    assert found.stderr.count("\n") == 1
    assert list(empty.iterdir()) == []


def test_where_nothing_can_be_written(say, empty):
    (empty / "file").write_text("mine")
    found = say("study run --out file")
    assert (found.code, found.stdout) == (5, "")
    assert found.stderr == "widestep: A study is kept in a directory. file is none; choose another.\n"


def test_a_directory_in_use(say, empty):
    (empty / "run").mkdir()
    program = "import sys; from pathlib import Path; from widestep.locks import DirectoryLock\n"
    program += "lock = DirectoryLock(Path('run')); print('held', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        found = say("train --fresh --out run")
        holder.communicate("")
    assert (found.code, found.stdout) == (7, "")
    assert f"run is held by host {socket.gethostname()}, process {holder.pid}, since " in found.stderr


def test_a_setting_file_that_is_too_large(say, empty):  # fault 87
    (empty / "bomb.toml").write_text("#" * 100_001)
    found = say("lr --recipe bomb.toml")
    assert (found.code, found.stdout) == (2, "")
    assert "at most 100 kB" in found.stderr


def test_names_cannot_command_the_terminal(say):
    found = say("lr --recipe", "\x1b[31mred\r\nwidestep: all is well")
    assert found.code == 2
    assert found.stderr.count("\n") == 1
    assert "\x1b" not in found.stderr
    assert "\r" not in found.stderr
    found = say("study plan", "--out", "here", "--data", "folder:a\x1b[2J\x07b\n\nc")
    assert (found.code, found.stderr.count("\n")) == (2, 1)


def test_a_name_on_disk_cannot_either(say, empty):
    (empty / "a\x1b[31m\nb").mkdir()
    found = say("study status", "a\x1b[31m\nb")
    assert found.code == 2
    assert found.stderr.startswith("widestep: A study's directory holds study.toml. a [31m b does not;")
    assert found.stderr.count("\n") == 1


@pytest.fixture
def fail(monkeypatch):
    """`fail(error)` makes the command `lr` run into an error."""

    def raising(error):
        def request(*arguments):
            raise error

        monkeypatch.setattr("widestep.cli.lr.request", request)

    return raising


@pytest.mark.parametrize(
    ("error", "code"), [(kind("Why."), kind.exit_code) for kind in vars(errors).values() if isinstance(kind, type)]
)
def test_every_kind_of_error_has_its_code(say, fail, error, code):
    fail(error)
    found = say("lr")
    assert (found.code, found.stdout, found.stderr) == (code, "", "widestep: Why.\n")
    assert code in (1, 2, 3, 4, 5, 6, 7, 8, 75)


def test_what_was_said_already_is_not_said_again(say, fail):
    fail(WidestepError())
    assert say("lr").stderr == ""


def test_stopping_at_once(say, fail):
    fail(KeyboardInterrupt())
    try:
        found = say("lr")
    except KeyboardInterrupt:  # would end all tests
        pytest.fail("an interrupt went through")
    assert (found.code, found.stdout) == (75, "")
    assert found.stderr == "widestep: Stopped at once. What was saved is whole; the same command goes on from there.\n"


def test_our_own_faults_are_named_as_such(say, fail):
    fail(ZeroDivisionError("bug"))
    found = say("lr")
    assert (found.code, found.stdout) == (1, "")
    start = "widestep: Something unexpected happened, which is a fault of widestep: ZeroDivisionError: bug (test_errors.py, "
    assert found.stderr.startswith(start)
    assert found.stderr.endswith(" Add --debug for the whole story.\n")
    assert found.stderr.count("\n") == 1


def test_the_whole_story_for_whoever_asks(say, fail):
    fail(ZeroDivisionError("bug"))
    found = say("lr --debug")
    assert found.code == 1
    assert found.stderr.startswith("Traceback (most recent call last):")
    assert found.stderr.splitlines()[-1].startswith("widestep: Something unexpected happened")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "/somewhere"), 5, "/somewhere: Permission denied"),
        (MemoryError(), 5, "There was too little"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes."),
            5,
            "There was too little",
        ),
        (RuntimeError("could not create a primitive"), 5, "There was too little"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 5, "There was too little"),
        (ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"), 2, "the package torch, which is not installed"),
    ],
)
def test_faults_of_the_machine_are_not_ours(say, fail, error, code, words):
    fail(error)
    found = say("lr")
    assert (found.code, found.stderr.count("\n")) == (code, 1)
    assert words in found.stderr


def test_a_reader_that_goes_away(program):
    """`widestep lr | head -1`"""
    child = program.start("lr", "--recipe", "poster")
    assert "workers" in child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait(600) == 0


HEARING = "import os, signal, sys\nfor number in (1, 2, 10, 12, 15):\n    signal.signal(number, signal.SIG_DFL)\n"
HEARING += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
"""Whoever runs the tests may have told them to ignore some signals, as nohup does."""
SLOW_TORCH = "import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\ntime.sleep(1000)\n"


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_while_torch_is_imported(program, until, power_cut, tmp_path, number):  # rows 16, 20
    """Long before training could handle it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(SLOW_TORCH)
    env = program.environment()
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    words = ["-m", "widestep", "train", "--recipe", "digits", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", HEARING, *words]
    child = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until((tmp_path / "torch/begun").exists, "the import has begun")
        child.send_signal(number)
        _, stderr = child.communicate(timeout=600)
    finally:
        power_cut(child)
    assert (child.returncode, stderr.count("\n")) == (75, 1)
    assert stderr.startswith("widestep: Stopped at once. What was saved is whole")
