"""Work on a study: failures stay with the trial that is at fault, and nothing that has an outcome runs again."""

from dataclasses import replace

import pytest

from widestep.errors import DataError, DirectoryInUse, EnvironmentFault, Stopped
from widestep.lease import as_slot, lease_of_this_process
from widestep.locks import DirectoryLock
from widestep.study import claims
from widestep.study.work import work

STACK = ("[arms.warm]", "[set]\nstack = 4\n\n[arms.warm]")


class Trainer:
    """Brings trials to an outcome; notes every stack; fails or is interrupted where the test wants it."""

    def __init__(self, store, fake, at_fault=None, killed_in=None):
        self.store, self.fake = store, fake
        self.at_fault = at_fault or {}
        self.killed_in = killed_in
        self.stacks = []

    def __call__(self, trials):
        self.stacks.append([trial.fingerprint for trial in trials])
        for trial in trials:
            if trial.fingerprint == self.killed_in:
                self.fake.begin(self.store.run(trial))
                raise KeyboardInterrupt
            if trial.fingerprint in self.at_fault:
                self.fake.begin(self.store.run(trial))
                raise self.at_fault[trial.fingerprint]
        for trial in trials:
            self.fake.finish(self.store.run(trial))


def names(trials):
    return [trial.fingerprint for trial in trials]


def test_all_trials_run_once(make, fake):
    store = make()
    trainer = Trainer(store, fake)
    assert work(store, trainer) == 12
    assert sorted(name for stack in trainer.stacks for name in stack) == sorted(names(store.trials))
    assert work(store, trainer) == 0
    assert len(trainer.stacks) == 12


def test_two_fail_and_one_is_killed_and_the_next_start_runs_these_three(make, fake):
    store = make()
    bad_data, bug, killed = (store.trials[index].fingerprint for index in (2, 5, 11))
    fates = {bad_data: DataError("A folder must exist. It does not."), bug: ZeroDivisionError("division by zero")}
    first = Trainer(store, fake, fates, killed_in=killed)
    with pytest.raises(KeyboardInterrupt):
        work(store, first)
    states = {state.trial.fingerprint: state for state in store.states()}
    assert states[bad_data].reason == "A folder must exist. It does not."
    assert states[bug].reason == "ZeroDivisionError: division by zero"
    assert states[killed].status == "stopped"
    assert sum(state.finished for state in states.values()) == 9
    assert len(first.stacks) == 12
    log = (store.path(store.trials[5]) / "log.txt").read_text()
    assert "failed: ZeroDivisionError: division by zero" in log
    assert "Traceback (most recent call last):" in log
    assert "raise self.at_fault[trial.fingerprint]" in log

    second = Trainer(store, fake)
    assert store.forget_failures() == 2
    assert work(store, second) == 3
    assert sorted(name for (name,) in second.stacks) == sorted([bad_data, bug, killed])
    assert all(state.status == "complete" for state in store.states())


def test_failures_are_not_tried_again_unasked(make, fake):
    store = make()
    work(store, Trainer(store, fake, {store.trials[0].fingerprint: DataError("gone")}))
    again = Trainer(store, fake)
    assert work(store, again) == 0
    assert again.stacks == []


def test_of_a_failing_stack_only_the_culprit_is_recorded(make, fake):
    store = make(STACK)
    culprit = store.trials[6]
    trainer = Trainer(store, fake, {culprit.fingerprint: MemoryError("too large")})
    assert work(store, trainer) == 11
    assert [state.trial for state in store.states() if state.status == "failed"] == [culprit]
    assert store.states()[6].reason == "MemoryError: too large"
    of_the_culprit = next(stack for stack in trainer.stacks if culprit.fingerprint in stack)
    assert len(of_the_culprit) == 4
    assert sorted(map(len, trainer.stacks)) == [1, 1, 1, 1, 4, 4, 4]


def test_a_companion_that_diverged_before_the_stack_failed_does_not_run_again(make, fake):
    store = make(STACK)
    stacks = []

    def execute(trials):
        stacks.append(names(trials))
        if len(stacks) == 1:
            fake.finish(store.run(trials[1]), "diverged")
            raise OSError("disk full")
        for trial in trials:
            fake.finish(store.run(trial))

    assert work(store, execute) == 12
    assert [len(stack) for stack in stacks] == [4, 1, 1, 1, 4, 4]
    assert stacks[0][1] not in [name for stack in stacks[1:] for name in stack]


def test_an_outcome_stands_although_closing_failed(make, fake):
    store = make()

    def execute(trials):
        fake.finish(store.run(trials[0]))
        raise OSError("cannot close")

    work(store, execute)
    assert all(state.status == "complete" for state in store.states())


@pytest.mark.parametrize("stop", [Stopped("Stopped by SIGTERM"), KeyboardInterrupt()])
def test_a_stop_gives_the_claims_back(make, fake, stop):
    store = make(STACK)
    executed = []

    def execute(trials):
        executed.append(trials)
        assert [state.status for state in store.states()].count("running") == 4
        if len(executed) == 2:
            for trial in trials:
                fake.begin(store.run(trial))
            raise stop
        for trial in trials:
            fake.finish(store.run(trial))

    with pytest.raises(type(stop)):
        work(store, execute)
    assert sorted(state.status for state in store.states()) == ["complete"] * 4 + ["missing"] * 4 + ["stopped"] * 4
    assert list((store.directory / "claims").glob("[!.]*")) == []
    assert work(store, Trainer(store, fake)) == 8


def test_what_another_process_has_claimed_is_left_to_it(make, fake):
    store = make()
    store.claim(store.trials[:2])
    trainer = Trainer(store, fake)
    assert work(store, trainer) == 10
    assert [state.status for state in store.states()] == ["running"] * 2 + ["complete"] * 10


def test_a_directory_that_nothing_can_be_written_to_keeps_nobody_from_the_others(make, fake):
    """Not even the failure can be recorded; it is told when nothing else is left to do."""
    store = make()
    blocked = store.path(store.trials[2])
    blocked.parent.mkdir()
    blocked.write_text("in the way")
    trainer = Trainer(store, fake)
    with pytest.raises(EnvironmentFault, match=f"{blocked}: File exists"):
        work(store, trainer)
    assert [state.status for state in store.states()] == ["complete"] * 2 + ["missing"] + ["complete"] * 9
    assert len(trainer.stacks) == 12


def test_a_directory_that_somebody_works_in_is_left_to_him(make, fake):
    store = make()
    trainer = Trainer(store, fake)
    taken = DirectoryLock(store.path(store.trials[2]).mkdir(parents=True) or store.path(store.trials[2]))
    try:
        with pytest.raises(DirectoryInUse, match="One job at a time works in a run directory"):
            work(store, trainer)
    finally:
        taken.release()
    assert [state.status for state in store.states()] == ["complete"] * 2 + ["missing"] + ["complete"] * 9
    assert work(store, trainer) == 1


def test_claims_of_other_hosts_are_looked_at_for_a_while_before_the_end(make, fake, monkeypatch):
    """The last free trials are taken by a host that then dies: who is still there takes them over."""
    store, slept, now = make(), [], [0.0]
    directory = store.directory / "claims"
    directory.mkdir()
    for trial in store.trials[:2]:
        lease = replace(lease_of_this_process(1), host="elsewhere")
        (directory / f"{trial.fingerprint}.1").write_bytes(as_slot(lease))
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: (slept.append(seconds), now.append(now.pop() + seconds)))
    assert work(store, Trainer(store, fake)) == 12
    assert sum(slept) == 15


def test_a_trial_that_failed_before_it_began_runs_when_it_is_mended(make, fake):
    """Nothing is in its directory but what was told of the failure."""
    store = make()
    trial = store.trials[0]
    store.claim([trial])
    store.fail(trial, "A folder must exist. It does not.", "Traceback: a story\n")
    assert "a story" in (store.path(trial) / "log.txt").read_text()
    assert store.forget_failures() == 1
    assert work(store, Trainer(store, fake)) == 12
    assert store.state(trial).status == "complete"
    assert "a story" in (store.path(trial) / "log.txt").read_text()
