"""Processes that compute a trial together: threads stand in for them, each with its own view of the study."""

import threading

import pytest

from widestep.errors import DataError, DirectoryInUse, Stopped, WidestepError, WorkerLost
from widestep.study.store import StudyStore
from widestep.study.work import work


class Together:
    """The n-th of several threads; what the first one says reaches the others."""

    def __init__(self, number, shared):
        self.is_first = number == 0
        self._shared = shared
        self.num_processes = shared["barrier"].parties

    def broadcast_json(self, value):
        if self.is_first:
            self._shared["value"] = value
        self.part()
        said = self._shared["value"]
        self.part()
        return said

    def part(self):
        if self.is_first:
            self._shared["waits"].set()
        self._shared["barrier"].wait(30)


@pytest.fixture
def together(fake, monkeypatch):
    """`together(store, fate)`: two processes work; `fate` maps trials to what each process meets. Returns how each ended."""

    def run(store, fate):
        shared = {"barrier": threading.Barrier(2), "waits": threading.Event()}
        ended, executed = [None, None], [[], []]

        def live(number):
            mine = StudyStore.open(store.directory)

            def fail_late(trial, *why, fail=mine.fail):  # when the other process has gone on as far as it can
                if number == 1:
                    shared["waits"].wait(30)
                fail(trial, *why)

            monkeypatch.setattr(mine, "fail", fail_late)

            def execute(trials):
                if number == 0:
                    shared["waits"].clear()
                shared["barrier"].wait(30)
                executed[number].append(sorted(trial.fingerprint for trial in trials))
                met = [fate[trial.fingerprint][number] for trial in trials if trial.fingerprint in fate]
                if any(met):
                    raise next(filter(None, met))
                if number == 0:
                    for trial in trials:
                        fake.finish(mine.run(trial))
                shared["barrier"].wait(30)

            try:
                ended[number] = work(mine, execute, Together(number, shared))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                ended[number] = error
                if not isinstance(error, WidestepError):
                    shared["barrier"].abort()
            finally:
                if number == 0:
                    shared["waits"].set()

        threads = [threading.Thread(target=live, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return ended, executed

    return run


def quiet(code):
    """What a process raises when another one tells the reason."""
    error = WidestepError()
    error.exit_code = code
    return error


def statuses(store):
    return [state.status for state in store.states()]


def test_all_trials_are_computed_by_both(make, together):
    store = make(("[arms.warm]", "[set]\nstack = 4\n\n[arms.warm]"))
    ended, executed = together(store, {})
    assert ended == [12, 12]
    assert executed[0] == executed[1]
    assert sorted(map(len, executed[0])) == [4, 4, 4]
    assert statuses(store) == ["complete"] * 12


@pytest.mark.parametrize("who", [0, 1])
def test_one_tells_the_reason_and_both_go_on(make, together, who):
    store = make()
    fate = [quiet(3), quiet(3)]
    fate[who] = DataError("A folder must exist. It does not.")
    ended, executed = together(store, {store.trials[4].fingerprint: fate})
    assert ended == [11, 11]
    assert executed[0] == executed[1]
    assert len(executed[0]) == 12
    assert statuses(store) == ["complete"] * 4 + ["failed"] + ["complete"] * 7
    assert store.states()[4].reason == "A folder must exist. It does not."


def test_of_a_failing_stack_only_the_culprit_is_recorded(make, together):
    store = make(("[arms.warm]", "[set]\nstack = 4\n\n[arms.warm]"))
    ended, executed = together(store, {store.trials[6].fingerprint: [quiet(3), DataError("gone")]})
    assert ended == [11, 11]
    assert executed[0] == executed[1]
    assert statuses(store).count("failed") == 1
    assert store.states()[6].reason == "gone"


def test_a_stop_ends_both_and_gives_the_claims_back(make, together):
    store = make()
    ended, _ = together(store, {store.trials[0].fingerprint: [Stopped("Stopped by SIGUSR1"), quiet(75)]})
    assert [error.exit_code for error in ended] == [75, 75]
    assert "failed" not in statuses(store)
    assert list((store.directory / "claims").glob("[!.]*")) == []


def test_what_nobody_explains_fails_the_trial_and_ends_both(make, together):
    """The other process waits in an exchange for one that is gone; it cannot go on with the next trial."""
    store = make()
    lost = WorkerLost("All 2 processes of a job must live.")
    ended, _ = together(store, {store.trials[0].fingerprint: [lost, ZeroDivisionError("division by zero")]})
    assert [type(error) for error in ended] == [WorkerLost, ZeroDivisionError]
    (failed,) = [state for state in store.states() if state.status == "failed"]
    assert failed.reason == "ZeroDivisionError: division by zero"
    assert list((store.directory / "claims").glob("[!.]*")) == []


def test_a_lost_process_is_no_failure_of_the_trial(make, together):
    store = make()
    ended, _ = together(store, {store.trials[0].fingerprint: [WorkerLost("process 1 on n2"), WorkerLost("process 0")]})
    assert [type(error) for error in ended] == [WorkerLost, WorkerLost]
    assert "failed" not in statuses(store)


def test_a_directory_that_somebody_else_works_in_is_left_to_him(make, together):
    store = make()
    in_use = DirectoryInUse("One job at a time works in a run directory.")
    ended, executed = together(store, {store.trials[3].fingerprint: [in_use, quiet(7)]})
    assert [error.exit_code for error in ended] == [7, 7]
    assert str(ended[0]) == str(in_use)
    assert len(executed[0]) == 12  # once each
    assert statuses(store) == ["complete"] * 3 + ["missing"] + ["complete"] * 8
