"""Several processes work on one study: every trial is executed by one of them, whatever was there, and none is lost."""

import json
import subprocess
import sys
from collections import Counter

import pytest

MANY = [
    ("[0, 1, 2, 3]", str(list(range(25)))),
    ('"4ep"]', '"4ep", "8ep"]'),
    ("[arms.warm]", "[set]\nstack = 3\n\n[arms.warm]"),
]


@pytest.fixture
def race(make, start, tmp_path):
    """`race(store)` lets many processes work on a study and returns who executed what; `disturb` may interfere."""

    def run(store, disturb=None, num_processes=8):
        log, go = tmp_path / "log", tmp_path / "go"
        log.touch()
        children = [start("racing_program.py", store.directory, log, go) for _ in range(num_processes)]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        go.touch()
        killed = disturb(children, log) if disturb else []
        for child in children:
            assert child.wait(60) == (-9 if child.pid in killed else 0)
        return [(name, int(process)) for name, process in map(str.split, log.read_text().splitlines())]

    return run


def leave_claims(store, trials):
    """Claims of a process that has ended: all racers see them, and all want to take them over."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    store.claim(trials)
    for path in (store.directory / "claims").glob("[!.]*"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "process": child.pid}))


def test_every_trial_is_executed_once_in_total(make, race):  # fault 94
    store = make(*MANY)
    assert len(store.trials) == 100
    leave_claims(store, store.trials[::2])
    executed = race(store)
    assert sorted(name for name, _ in executed) == sorted(trial.fingerprint for trial in store.trials)
    assert len({process for _, process in executed}) > 1
    assert all(state.status == "complete" for state in store.states())
    assert list((store.directory / "claims").glob("[!.]*")) == []


def test_what_a_killed_process_had_claimed_is_executed_by_another(make, race, until):  # fault 94
    store = make(*MANY)
    killed = []

    def kill_two(children, log):
        for number, child in enumerate(children[:2]):
            until(lambda number=number: len(log.read_text().splitlines()) >= 10 * (number + 1), "trials are executed")
            child.kill()
            child.wait()
            killed.append(child.pid)
        return killed

    executed = race(store, kill_two, num_processes=4)
    assert all(state.status == "complete" for state in store.states())
    again = [name for name, count in Counter(name for name, _ in executed).items() if count > 1]
    assert len(again) <= 2 * 3  # the stacks that the two were at
    assert all(any(process in killed for name, process in executed if name == one) for one in again)
