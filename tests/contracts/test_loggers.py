"""What every logger must do: one strictly rising curve across kills, and no harm to training whatever becomes of it."""

import json
import os
import threading
from collections import defaultdict
from importlib.util import find_spec

import pytest

from widestep.train import tracking
from widestep.train.board import Board
from widestep.train.services import SERVICE_OF
from widestep.train.tracking import Tracker

LOSS = "train/loss"


@pytest.fixture(autouse=True)
def surroundings():
    """What services read from the environment and leave there."""
    before = dict(os.environ)
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # for reading back; the program sets it by itself
    yield
    os.environ.clear()
    os.environ.update(before)


class Remembered:
    """A service that keeps what it was told in a file, and fails or hangs when it is asked to."""

    def __init__(self, directory, trouble=""):
        self.path, self.trouble = directory / "remembered.jsonl", trouble
        self.go_on = threading.Event()

    def begin(self, known_as):
        if self.trouble == "begin":
            raise SystemExit("no such\nserver")
        self.note(begin=known_as)
        return known_as or "run-1"

    def send(self, points):
        if self.trouble == "hang":
            self.go_on.wait(600)
        if self.trouble == "send":
            raise ConnectionError("the server went away")
        for point in points:
            self.note(step=point.step, values=point.values)

    def end(self, status):
        self.note(end=status)

    def note(self, **facts):
        with self.path.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    @staticmethod
    def read(directory):
        return [json.loads(line) for line in (directory / "remembered.jsonl").read_text().splitlines()]


def of_remembered(directory):
    return [
        (r["step"], name, value) for r in Remembered.read(directory) if "step" in r for name, value in r["values"].items()
    ]


def of_board(directory):
    """All events of all files, as they lie on the disk: nothing is left to the reader's own idea of what to leave out."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in sorted((directory / "tensorboard").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            found += [(event.step, value.tag, value.tensor.float_val[0]) for value in event.summary.value]
    return found


def of_wandb(directory):
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for data in records_of_wandb(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found += [(row["step"], name, value) for name, value in row.items() if "/" in name]
    return found


def records_of_wandb(data):
    """Yield the records of a log in LevelDB's format: 7 bytes at the start, blocks of 32 KiB, pieces of types 1 to 4."""
    place, pieces = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield pieces
            pieces = b""


def of_mlflow(directory):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(directory / "mlflow").as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "widestep"]
    (run,) = client.search_runs([experiment.experiment_id])
    found = []
    for name in run.data.metrics:
        found += [(one.step, name, one.value) for one in client.get_metric_history(run.info.run_id, name)]
    return found


READ = {"tensorboard": of_board, "remembered": of_remembered, "wandb": of_wandb, "mlflow": of_mlflow}
KINDS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(
                name != "remembered" and find_spec(name) is None, reason=f"the package {name} is not installed"
            ),
            pytest.mark.filterwarnings("ignore"),  # of packages that are not ours
        ],
    )
    for name in READ
]


def opened(kind, directory, first_step=0):
    if kind == "tensorboard":
        return Board(directory / "tensorboard", first_step)
    service = Remembered(directory) if kind == "remembered" else SERVICE_OF[kind](directory, {"grid": "4x1x8", "seed": 3})
    return Tracker(kind, service, directory)


def log(logger, first, last):
    for step in range(first, last + 1):
        logger.step(step, 0.5, 1.0 / step)
        if step % 10 == 0:
            logger.epoch(step, step / 100, None if step == 10 else 2.0)


def killed(logger):
    """Leave it as a process that is killed right after a save leaves it: nothing is closed."""
    logger.flush()
    if isinstance(logger, Tracker):
        logger._waiting.put("")  # the thread sends what it has, and ends
        logger._thread.join(600)
        assert not logger._thread.is_alive()


@pytest.fixture
def ends_of_threads(monkeypatch):
    """A killed process does not say goodbye."""
    for service in (Remembered, *SERVICE_OF.values()):
        before = service.end
        monkeypatch.setattr(service, "end", lambda self, status, before=before: before(self, status) if status else None)


def series(points):
    found = defaultdict(list)
    for step, name, value in points:
        found[name].append((step, value))
    return found


def told(kind, directory, last, until):
    """All that was told, by name; a service may have a process of its own that writes a moment later."""
    until(lambda: any(step == last for step, _, _ in READ[kind](directory)), f"step {last} is told")
    return series(READ[kind](directory))


@pytest.mark.parametrize("kind", KINDS)
def test_one_rising_curve_across_kills(kind, tmp_path, ends_of_threads, until):
    """Killed after 37 steps, of which 25 were saved; after 31, of which 28 were; then to the end of 50."""
    for first, last in ((0, 37), (25, 31), (28, 50)):
        logger = opened(kind, tmp_path, first)
        log(logger, first + 1, last)
        if last == 50:
            logger.finish("complete")
        else:
            killed(logger)
        assert logger.problem is None
    found = told(kind, tmp_path, 50, until)
    assert found.keys() == {"train/lr", LOSS, "validation/accuracy", "validation/loss"}
    assert [step for step, _ in found[LOSS]] == list(range(1, 51))
    assert [value for _, value in found[LOSS]] == pytest.approx([1 / step for step in range(1, 51)])
    assert found["validation/accuracy"] == [(step, pytest.approx(step / 100)) for step in (10, 20, 30, 40, 50)]
    assert [step for step, _ in found["validation/loss"]] == [20, 30, 40, 50]


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_may_be_said_twice(kind, tmp_path, until):
    logger = opened(kind, tmp_path)
    log(logger, 1, 3)
    logger.finish("diverged")
    logger.finish("stopped")
    logger.step(4, 0.5, 0.25)
    assert logger.problem is None
    assert [step for step, _ in told(kind, tmp_path, 3, until)[LOSS]] == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_cannot_be_written_costs_the_logger_only(kind, tmp_path):
    (tmp_path / "run").write_text("a file where a directory should be")
    logger = opened(kind, tmp_path / "run")
    log(logger, 1, 20)
    logger.flush()
    logger.finish("complete")
    assert logger.problem.startswith(
        "no more TensorBoard events" if kind == "tensorboard" else f"nothing more is sent to {kind}"
    )
    assert "\n" not in logger.problem


@pytest.mark.parametrize(("trouble", "words"), [("begin", "no such server"), ("send", "the server went away")])
def test_a_service_that_fails(trouble, words, tmp_path):
    logger = Tracker("fake", Remembered(tmp_path, trouble), tmp_path)
    log(logger, 1, 5)
    logger._thread.join(600)
    log(logger, 6, 10)
    assert logger._waiting.qsize() <= 6
    logger.finish("complete")
    assert logger.problem == f"nothing more is sent to fake: {words}"


def test_a_service_that_hangs_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_PATIENCE", 0.05)
    monkeypatch.setattr(tracking, "_MOST_WAITING", 10)
    service = Remembered(tmp_path, "hang")
    logger = Tracker("fake", service, tmp_path)
    log(logger, 1, 40)
    logger.finish("complete")
    assert logger.problem == "nothing more is sent to fake: it takes the numbers too slowly"
    service.go_on.set()
    logger._thread.join(600)


def test_a_run_goes_on_under_its_id(tmp_path):
    for first, last in ((0, 3), (3, 5)):
        logger = opened("remembered", tmp_path, first)
        log(logger, first + 1, last)
        logger.finish("stopped")
    lines = Remembered.read(tmp_path)
    assert [line["begin"] for line in lines if "begin" in line] == [None, "run-1"]
    assert [line["end"] for line in lines if "end" in line] == ["stopped"] * 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"known_as": 3}', '{"other": 1}', '{"step": "five"}'])
def test_what_was_remembered_may_be_damaged(content, tmp_path):
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "remembered.json").write_text(content)
    logger = opened("remembered", tmp_path)
    log(logger, 1, 2)
    logger.finish("complete")
    assert logger.problem is None
    assert [step for step, _ in series(of_remembered(tmp_path))[LOSS]] == [1, 2]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the package tensorboard is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rubbish", [b"", b"\x00" * 11, b"\xff" * 40, b"\x05" + b"\x00" * 30])
def test_what_a_kill_left_unfinished_is_cut_off(rubbish, tmp_path):
    first = Board(tmp_path / "tensorboard", 0)
    log(first, 1, 9)
    first.flush()
    (path,) = (tmp_path / "tensorboard").iterdir()
    with path.open("ab") as file:
        file.write(rubbish)
    second = Board(tmp_path / "tensorboard", 9)
    log(second, 10, 12)
    second.finish("complete")
    assert [step for step, _ in series(of_board(tmp_path))[LOSS]] == list(range(1, 13))


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the package tensorboard is not installed")
@pytest.mark.filterwarnings("ignore")
def test_attempts_within_a_second_stay_in_order(tmp_path):
    """Twelve attempts in this second, of processes whose numbers sort the other way, and one in a second to come."""
    for attempt in range(12):
        board = Board(tmp_path / "tensorboard", 3 * attempt)
        log(board, 3 * attempt + 1, 3 * attempt + 3)
        board.finish("stopped")
        newest = max((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        second, host, rest = newest.name.removeprefix("events.out.tfevents.").split(".", 2)
        later = 5 * (attempt == 7)  # the clock of the day goes back
        newest.rename(newest.with_name(f"events.out.tfevents.{int(second) + later}.{host}.{99 - attempt}.{rest}"))
    assert [step for step, _ in series(of_board(tmp_path))[LOSS]] == list(range(1, 37))


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")
def test_training_that_is_killed_and_resumed_is_one_curve(program, power_cut, until, tmp_path):
    """The real command, killed after a save and some more steps; whatever is installed is read back."""
    kinds = [name for name in ("tensorboard", "wandb", "mlflow") if find_spec(name)]
    if not kinds:
        pytest.skip("neither tensorboard nor wandb nor mlflow is installed")
    services = [name for name in kinds if name != "tensorboard"]
    words = ["train", "--recipe", "digits", "--grid", "2x1x10", "--epochs", "8", "--train-images", 800, "--out", tmp_path]
    words += ["--checkpoint-every", "50st", *(["--log-to", ",".join(services)] if services else [])]
    child = program.start(*words, heard=False)
    metrics = tmp_path / "metrics.jsonl"

    def under_way():
        saved = [path for path in (tmp_path / "checkpoints").glob("step-*.safetensors") if path.name >= "step-0000100"]
        begun = all((tmp_path / "tracking" / f"{name}.json").exists() for name in services)
        return child.poll() is not None or (saved and begun and metrics.read_bytes().count(b"\n") > 110)

    until(under_way, "some steps are saved")
    child.kill()  # the launcher, with which its processes die
    child.wait()
    assert not (tmp_path / "result.json").exists()
    found = program(*words)
    power_cut(child)
    assert found.code == 0, found.stderr
    assert "note " not in found.stderr.replace("few steps for running", "")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert len(lines) == 320
    rows = [row.split(",") for row in (tmp_path / "epochs.csv").read_text().splitlines()[1:]]
    for kind in kinds:
        curves = told(kind, tmp_path, 320, until)
        losses = {line["step"] + 1: line["loss"] for line in lines}
        accuracies = {int(row[1]): float(row[-1]) for row in rows}
        for name, values in ((LOSS, losses), ("validation/accuracy", accuracies)):
            steps = [step for step, _ in curves[name]]
            assert steps == sorted(set(steps))
            assert [value for _, value in curves[name]] == pytest.approx([values[step] for step in steps])
            if kind == "tensorboard":
                assert steps == list(values)
        assert len(curves[LOSS]) >= 320 - 150  # of what was on its way at the kill a service may miss some
