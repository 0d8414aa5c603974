"""Several processes work on one study: every trial is executed by one of them, whatever was there, and none is lost."""

import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace

import pytest

from widestep.lease import as_slot, lease_of_this_process
from widestep.lease_files import HeldLease, LeaseFiles
from widestep.study import claims
from widestep.study.claims import Claims

MANY = [
    ("[0, 1, 2, 3]", str(list(range(25)))),
    ('"4ep"]', '"4ep", "8ep"]'),
    ("[arms.warm]", "[set]\nstack = 3\n\n[arms.warm]"),
]


@pytest.fixture
def race(make, start, tmp_path):
    """`race(store)` lets many processes work on a study and returns who executed what; `disturb` may interfere."""

    def run(store, disturb=None, num_processes=8, on_hosts=False):
        log, go = tmp_path / "log", tmp_path / "go"
        log.touch()
        hosts = [[f"host-{number}"] if on_hosts else [] for number in range(num_processes)]
        children = [start("racing_program.py", store.directory, log, go, *host) for host in hosts]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        go.touch()
        killed = disturb(children, log) if disturb else []
        for child in children:
            assert child.wait(600) == (-9 if child.pid in killed else 0)
        return [(name, int(process)) for name, process in map(str.split, log.read_text().splitlines())]

    return run


def leave_claims(store, trials, **facts):
    """Claims of a process that has ended: all racers see them, and all want to take them over."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (store.directory / "claims").mkdir()
    for trial in trials:
        lease = replace(lease_of_this_process(1), process=child.pid, **facts)
        (store.directory / "claims" / f"{trial.fingerprint}.1").write_bytes(as_slot(lease))


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


def test_claims_of_a_dead_host_are_taken_over_by_one_each(make, race):
    """Processes on four hosts, without a lock between them, wait for signs of life that do not come."""
    store = make(*MANY)
    leave_claims(store, store.trials[::2], host="a-dead-host")
    executed = race(store, num_processes=4, on_hosts=True)
    assert sorted(name for name, _ in executed) == sorted(trial.fingerprint for trial in store.trials)
    assert len({process for _, process in executed}) > 1
    assert all(state.status == "complete" for state in store.states())
    assert list((store.directory / "claims").glob("[!.]*")) == []


def test_what_a_killed_host_had_claimed_is_executed_by_another(make, race, until):
    store = make(*MANY)
    killed = []

    def kill_one(children, log):
        until(lambda: len(log.read_text().splitlines()) >= 10, "trials are executed")
        children[0].kill()
        children[0].wait()
        killed.append(children[0].pid)
        return killed

    race(store, kill_one, num_processes=3, on_hosts=True)
    executed = race(store, num_processes=1, on_hosts=True)  # when the others had seen it alive, they have not waited for it
    assert all(state.status == "complete" for state in store.states())
    again = [name for name, count in Counter(name for name, _ in executed).items() if count > 1]
    assert len(again) <= 3
    assert all(any(process in killed for name, process in executed if name == one) for one in again)


@pytest.fixture
def clock(monkeypatch):
    """The seconds on the clock of this process."""
    seconds = [100.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def held(tmp_path):
    """The claims of a study, and a way to write those of another host."""
    (tmp_path / "claims").mkdir()

    def sign(name, beat, host="elsewhere"):
        lease = replace(lease_of_this_process(1), host=host, beat=beat)
        (tmp_path / "claims" / f"{name}.1").write_bytes(as_slot(lease))

    return Claims(tmp_path / "claims"), sign


def test_a_host_that_shows_signs_of_life_is_alive(held, clock):
    watching, sign = held
    sign("a", 7)
    assert watching.held("a")
    assert watching.doubtful(["a", "b"])
    for beat in range(8, 12):
        clock[0] += 14.9
        sign("a", beat)
        assert watching.held("a")
        assert not watching.doubtful(["a", "b"])
        assert not watching.take("a")


def test_a_host_without_signs_of_life_is_dead_after_three_beats(held, clock):
    watching, sign = held
    sign("a", 7)
    assert watching.held("a")
    clock[0] += 14.9
    assert watching.held("a")
    assert not watching.take("a")
    clock[0] += 0.2
    assert not watching.held("a")
    assert not watching.doubtful(["a"])
    assert watching.take("a")
    assert [path.name for path in watching.directory.iterdir()] == ["a.2"]
    watching.give_back("a")
    assert list(watching.directory.iterdir()) == []


def test_a_process_that_beats_in_one_claim_lives_in_all(held, clock):
    watching, sign = held
    sign("a", 7)
    assert watching.held("a")
    clock[0] += 10
    sign("b", 8)  # claimed since, by the same process
    assert watching.held("b")
    clock[0] += 10
    assert watching.held("a")
    assert not watching.doubtful(["a", "b"])


def test_a_process_that_had_nothing_to_do_for_a_while_lives(held, clock, tmp_path):
    """Its claims are short: what shows that it lives is that it makes new ones."""
    watching, _ = held
    busy = Claims(tmp_path / "claims")
    for name in ("a", "b", "c"):
        assert busy.take(name)
        lease = replace(busy.holder(name), host="elsewhere")
        busy.give_back(name)
        (watching.directory / f"{name}.1").write_bytes(as_slot(lease))
        assert watching.held(name)
        (watching.directory / f"{name}.1").unlink()
        clock[0] += 20


def test_a_claim_that_was_taken_over_is_not_given_back(held):
    watching, _ = held
    assert watching.take("a")
    (watching.directory / "a.1").unlink()
    (watching.directory / "a.1").write_bytes(as_slot(replace(lease_of_this_process(1), host="elsewhere")))
    watching.give_back("a")
    assert [path.name for path in watching.directory.iterdir()] == ["a.1"]


def test_a_claim_that_is_just_being_written_counts(held, monkeypatch):
    watching, sign = held
    (watching.directory / "a.1").touch()
    create = LeaseFiles.create

    def written_meanwhile(files, generation, beat=0):
        sign("a", 0)
        return create(files, generation, beat)

    monkeypatch.setattr(LeaseFiles, "create", written_meanwhile)
    assert not watching.take("a")
    assert [path.name for path in watching.directory.iterdir()] == ["a.1"]


def test_of_two_that_take_over_at_once_the_later_one_has_it(held, monkeypatch):
    watching, _ = held
    successor = HeldLease.successor

    def taken_meanwhile(lease):
        (watching.directory / "a.2").write_bytes(as_slot(replace(lease_of_this_process(2), host="elsewhere")))
        return successor(lease)

    monkeypatch.setattr(HeldLease, "successor", taken_meanwhile)
    assert not watching.take("a")
    assert [path.name for path in watching.directory.iterdir()] == ["a.2"]


def test_signs_of_life_are_shown_while_claims_are_held(held, until, monkeypatch):
    watching, _ = held
    before = set(threading.enumerate())
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    assert watching.take("a")
    until(lambda: (lease := watching.holder("a")) is not None and lease.beat >= 3, "signs of life")
    assert watching.take("b")
    assert watching.holder("b").beat >= 3
    watching.give_back("a")
    watching.give_back("b")
    assert set(threading.enumerate()) <= before
