"""A real study of four runs: killed, stopped and continued it ends with the bytes it has undisturbed, and its runs alone."""

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

import pytest
from running_jobs import is_alive, state

from widestep.lease import parsed
from widestep.study.estimate import data_facts, plans
from widestep.study.footprint import disk_need
from widestep.study.store import StudyStore
from widestep.study.study import parse

pytestmark = pytest.mark.processes


@dataclass(frozen=True)
class Ended:
    """How one start of a study ended."""

    code: int
    stderr: str


def digests(directory):
    trials = StudyStore.open(directory).trials
    return [json.loads((directory / "trials" / t.fingerprint / "result.json").read_text())["weights_sha256"] for t in trials]


def events(directory):
    found = {}
    for path in (directory / "trials").glob("*/history.jsonl"):
        found[path.parent.name] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


@pytest.fixture(scope="module")
def undisturbed(program, tiny, tmp_path_factory):
    """All runs in one process that joins a study begun elsewhere; then the table, for which nothing is left to run."""
    directory = tmp_path_factory.mktemp("undisturbed") / "study"
    StudyStore.create(directory, parse(tiny.read_text()))
    found = program("study", "work", directory)
    assert (found.code, found.stdout, found.stderr) == (0, "", "")
    assert program("study", "run", tiny, "--out", directory, "--no-report").code == 0
    return directory


@pytest.fixture(scope="module")
def disturbed(program, tiny, tmp_path_factory, until, power_cut):
    """Three starts of the same study: stopped by a signal; cut off from power; and one of its workers shot."""
    directory = tmp_path_factory.mktemp("disturbed") / "study"

    def rows():
        return sum(len(path.read_text().splitlines()) - 1 for path in directory.glob("trials/*/epochs.csv"))

    def start():
        return program.start("study", "run", tiny, "--out", directory, "--jobs", 2, "--no-report")

    def under_way(child, more):
        begun = rows()
        until(lambda: rows() >= begun + more or child.poll() is not None, "the study is under way")

    starts = {}
    child = start()
    under_way(child, 4)
    child.send_signal(signal.SIGTERM)
    starts["stopped"] = Ended(child.wait(600), child.stderr.read())
    power_cut(child)
    starts["statuses when stopped"] = [state.status for state in StudyStore.open(directory).states()]

    child = start()
    under_way(child, 2)
    power_cut(child)
    starts["cut off"] = Ended(child.returncode, "")
    until(lambda: not any(is_alive(process) for process in _workers(directory)), "the workers end with their crew")
    starts["statuses when cut off"] = [state.status for state in StudyStore.open(directory).states()]

    child = start()
    under_way(child, 1)
    shot = max(filter(is_alive, _workers(directory)))
    os.kill(shot, signal.SIGSTOP)
    until(lambda: state(shot) == "T", "it takes and gives back nothing more")
    held = [name for name, process in _claims(directory).items() if process == shot]
    os.kill(shot, signal.SIGKILL)
    starts["shot"] = Ended(child.wait(600), child.stderr.read())
    power_cut(child)
    starts["held"] = sorted(held)
    starts["states when shot"] = StudyStore.open(directory).states()
    starts["retry"] = program("study", "retry", directory, "--jobs", 2, "--no-report")
    return directory, starts


def _claims(directory):
    """Who has claimed what; a claim that is being made or given back is nobody's."""
    found = {}
    for path in (directory / "claims").glob("[!.]*"):
        with suppress(FileNotFoundError):
            lease = parsed(path.read_bytes())
            found |= {path.stem: lease.process} if lease else {}
    return found


def _workers(directory):
    return set(_claims(directory).values())


def test_a_signal_stops_it(disturbed):
    _, starts = disturbed
    found = starts["stopped"]
    assert found.code == 75
    assert "Stopped by SIGTERM; everything is saved. The same command goes on from there." in found.stderr
    assert "Traceback" not in found.stderr
    assert "running" not in starts["statuses when stopped"]
    assert "stopped" in starts["statuses when stopped"]


def test_a_power_cut_leaves_nothing_running(disturbed):
    _, starts = disturbed
    assert starts["cut off"].code == -signal.SIGKILL
    assert "running" not in starts["statuses when cut off"]
    assert "stopped" in starts["statuses when cut off"]


def test_the_trials_of_a_worker_that_is_shot_are_taken_up_again(disturbed):
    directory, starts = disturbed
    assert starts["shot"].code == 0, starts["shot"].stderr
    assert {state.status for state in starts["states when shot"]} == {"complete"}
    assert 1 <= len(starts["held"]) <= 2
    for name in starts["held"]:
        log = (directory / "trials" / name / "log.txt").read_text()
        assert "the process that ran it ended with SIGKILL; perhaps out of memory; it is taken up again" in log


def test_it_ends_as_if_nothing_had_happened(undisturbed, disturbed):  # fault 93
    expected, (directory, starts) = undisturbed, disturbed
    assert starts["retry"].code == 0, starts["retry"].stderr
    assert (directory / "status.csv").read_bytes() == (expected / "status.csv").read_bytes()
    assert digests(directory) == digests(expected)
    for trial in StudyStore.open(directory).trials:
        one, other = (root / "trials" / trial.fingerprint for root in (directory, expected))
        assert (one / "epochs.csv").read_bytes() == (other / "epochs.csv").read_bytes()
        assert (one / "ledger.jsonl").read_bytes() == (other / "ledger.jsonl").read_bytes()


def test_what_is_left_on_disk(disturbed):
    directory, _ = disturbed
    assert sorted(path.name for path in directory.iterdir()) == ["claims", "status.csv", "study.toml", "trials"]
    assert [path.name for path in (directory / "claims").iterdir()] == [".lock"]
    assert len(list((directory / "trials").iterdir())) == len({*digests(directory)}) == 4


def test_its_log_is_short_and_plain(disturbed):
    _, starts = disturbed
    found = starts["retry"]
    lines = found.stderr.splitlines()
    assert lines == ["study      tiny: Two warmups, two seeds", "trials     4, 0 to run"]
    lines = starts["shot"].stderr.splitlines()
    assert lines[0] == "study      tiny: Two warmups, two seeds"
    assert lines[1].startswith("trials     4, ")
    assert lines[2].startswith("time       0:0")
    assert " with 2 at a time; basis: " in lines[2]
    assert lines[-1].startswith("progress   4/4 trials, 0 running, 100 %, elapsed 0:")
    assert len(lines) <= 3 + 1 + 3  # and a line every 15 seconds
    for text in (found.stderr, starts["stopped"].stderr, starts["shot"].stderr):
        assert "\r" not in text
        assert "\x1b" not in text


def test_it_was_really_interrupted(disturbed):
    directory, _ = disturbed
    histories = events(directory)
    stopped = [event["step"] for history in histories.values() for event in history if event["event"] == "stopped"]
    assert stopped
    assert all(0 < step < 150 for step in stopped)
    resumed = [event["step"] for history in histories.values() for event in history if event["event"] == "resumed"]
    assert len(resumed) >= 4
    assert set(stopped) <= set(resumed)


def test_a_run_of_the_stack_alone_gives_its_bytes(undisturbed, command, program, tmp_path):
    trial = StudyStore.open(undisturbed).trials[2]
    expected = digests(undisturbed)[2]
    recipe = undisturbed / "trials" / trial.fingerprint / "recipe.toml"
    words = ("train", "--recipe", recipe, "--json", "--tensorboard", "false", "--out")
    assert json.loads(command(*words, tmp_path / "alone").stdout)["weights_sha256"] == expected
    assert json.loads(program(*words, tmp_path / "two", "--processes", 2).stdout)["weights_sha256"] == expected


def test_the_disk_that_was_planned_is_the_disk_that_is_used(undisturbed, command, tiny):
    """Blocks on the disk against the formula, as of trials that lasted as long as these: a state is saved every 10 s."""
    store = StudyStore.open(undisturbed)
    facts = data_facts(store.trials)
    run_plans = plans(store.trials, facts)
    num_states = {trial.fingerprint: len([*store.path(trial).glob("checkpoints/step-*")]) for trial in store.trials}
    seconds = {name: 10.0 * number + 5.0 for name, number in num_states.items()}
    _, planned = disk_need(store, store.trials, run_plans, facts, seconds, 1)
    for trial in store.trials:
        used = sum(512 * path.lstat().st_blocks for path in (store.path(trial), *store.path(trial).rglob("*")))
        assert used == pytest.approx(planned[trial.fingerprint].at_end, rel=0.15)


def test_a_probe_writes_nothing_and_names_its_kinds(program, tiny, tmp_path):
    out = tmp_path / "nothing"
    found = program("study", "plan", tiny, "--out", out, "--jobs", 2, "--probe", "--json")
    assert found.code == 0, found.stderr
    plan = json.loads(found.stdout)
    assert plan["basis"] == "a probe"
    assert plan["probe"]["kinds_of_stack"] == 1
    assert plan["probe"]["seconds"] > 0.1
    assert plan["seconds"] > 4
    assert list(tmp_path.iterdir()) == []
    assert found.stderr == "probe      trains a few steps of 1 kinds of stack, in a directory that is removed afterwards\n"


def test_a_probe_that_cannot_train_says_why(program, tiny, tmp_path):
    (tmp_path / "net.py").write_text("def Net(): raise RuntimeError('no such layer')\n")
    text = tiny.read_text().replace("stack = 2", f'model = "{tmp_path}/net.py:Net"')
    (tmp_path / "own.toml").write_text(text)
    found = program("study", "plan", tmp_path / "own.toml", "--out", tmp_path / "nothing", "--probe")
    assert found.code == 2  # as `train` would say it
    assert "no such layer" in found.stderr
    assert "Traceback" not in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == ["net.py", "own.toml"]
