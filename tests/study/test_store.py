"""A study on disk: begun once, continued by the same question only, and the state of every trial with its reason."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from widestep.errors import EnvironmentFault, UsageError
from widestep.lease import as_slot, lease_of_this_process
from widestep.study.store import StudyStore
from widestep.study.study import parse, to_toml

NEW_CLAIM = ("No warmup is worst.", "No warmup is really the worst.")
LEVEL = ("margin = 0.5", "margin = 0.5\nlevel = 0.9")
MARGIN = ("margin = 0.5", "margin = 0.7")
MORE_SEEDS = ("[0, 1, 2, 3]", "[0, 1, 2, 3, 4]")
FEWER_SEEDS = ("[0, 1, 2, 3]", "[9]")
MORE_ARMS = ("[claims.worst]", '[arms.wide]\nset = { grid = "40x1x8" }\n\n[claims.worst]')


def statuses(store):
    return [state.status for state in store.states()]


def test_a_new_study_holds_its_definition(make):
    store = make()
    assert [path.name for path in store.directory.iterdir()] == ["study.toml"]
    assert (store.directory / "study.toml").read_text() == to_toml(store.study)
    assert StudyStore.open(store.directory).study == store.study
    assert statuses(store) == ["missing"] * 12


def test_the_same_study_goes_on(make, fake):
    first = make()
    fake.finish(first.run(first.trials[0]))
    before = (first.directory / "study.toml").stat().st_ino
    assert statuses(make()) == ["complete"] + ["missing"] * 11
    assert (first.directory / "study.toml").stat().st_ino == before


def test_another_study_is_refused(make):
    make()
    with pytest.raises(UsageError, match=r"holds the study 'twelve', not 'thirteen'. Choose another --out."):
        make(('"twelve"', '"thirteen"'))


def test_other_files_are_not_touched(make, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"is empty or holds a study. .* holds other files; choose another."):
        make(directory=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_directory(make, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(EnvironmentFault, match=r"kept in a directory. .*thesis\.tex is none; choose another."):
        make(directory=tmp_path / "thesis.tex")


def test_a_start_cut_off_is_taken_up(make, tmp_path):
    """The directory is there, and beside it what a killed process left of the definition."""
    (tmp_path / ".study.toml.17.tmp").write_text('name = "twel')
    assert statuses(make(directory=tmp_path)) == ["missing"] * 12


def test_a_directory_without_a_study(tmp_path):
    with pytest.raises(UsageError, match=r"holds study.toml. .*nowhere does not; start it with `widestep study run`."):
        StudyStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"name = 'caf\xe9'", b"name = ", b"", b'name = "twelve"\n'])
def test_a_damaged_definition(make, content):  # fault 85
    store = make()
    (store.directory / "study.toml").write_bytes(content)
    for again in (lambda: StudyStore.open(store.directory), make):
        with pytest.raises(UsageError):
            again()


@pytest.mark.parametrize("change", [NEW_CLAIM, LEVEL, MARGIN])
def test_what_it_is_judged_by_may_change_until_there_is_an_outcome(make, fake, change):
    fake.begin(make().run(make().trials[0]))
    assert make(change).study.title == make().study.title


@pytest.mark.parametrize(("change", "name"), [(NEW_CLAIM, "claims"), (LEVEL, "level"), (MARGIN, "margin")])
@pytest.mark.parametrize("status", ["complete", "diverged"])
def test_what_it_is_judged_by_may_not_change_afterwards(make, fake, change, name, status):
    store = make()
    fake.finish(store.run(store.trials[5]), status)
    with pytest.raises(UsageError, match=rf"is declared before it runs. {name} changed although trials in .* have finished"):
        make(change)
    assert StudyStore.open(store.directory).study == store.study


def test_taking_the_seeds_away_opens_no_back_door(make, fake):
    store = make()
    fake.finish(store.run(store.trials[0]))
    assert statuses(make(FEWER_SEEDS)) == ["missing"] * 3
    with pytest.raises(UsageError, match="margin changed although"):
        make(FEWER_SEEDS, MARGIN)


@pytest.mark.parametrize(("change", "num_more"), [(MORE_SEEDS, 3), (MORE_ARMS, 4), (("4ep", '4ep", "8ep'), 4)])
def test_what_is_added_later_leaves_what_ran(make, fake, change, num_more):
    store = make()
    for trial in store.trials:
        fake.finish(store.run(trial))
    grown = make(change)
    assert sorted(statuses(grown)) == ["complete"] * 12 + ["missing"] * num_more
    assert statuses(make()) == ["complete"] * 12  # and back


def test_states(make, fake):
    store = make()
    trials = store.trials
    fake.finish(store.run(trials[0]), val_correct=801)
    fake.finish(store.run(trials[1]), "diverged", val_correct=84)
    fake.begin(store.run(trials[2]))  # killed
    store.claim(trials[3:5])
    fake.begin(store.run(trials[4]))  # at work
    store.fail(trials[5], "no such folder")
    fake.begin(store.run(trials[6]))
    store.fail(trials[6], "out of memory")
    fake.begin(store.run(trials[7]))
    store.run(trials[7]).set_status("stopped")
    states = store.states()
    expected = ["complete", "diverged", "stopped", "running", "running", "failed", "failed", "stopped"] + ["missing"] * 4
    assert [state.status for state in states] == expected
    assert [state.finished for state in states] == [True] * 2 + [False] * 10
    assert [state.val_accuracy for state in states] == [801 / 837, 84 / 837] + [None] * 10
    reasons = [None, "the loss is not finite", None, None, None, "no such folder", "out of memory"] + [None] * 5
    assert [state.reason for state in states] == reasons
    assert store.run(trials[6]).status() == "failed"
    assert states[5].directory == store.directory / "trials" / trials[5].fingerprint
    assert [result.val_correct for result in store.results()] == [801, 84]


def test_a_row_for_machines(make, fake):
    store = make()
    fake.finish(store.run(store.trials[6]), "diverged")
    row = store.states()[6].as_dict()
    assert list(row) == ["fingerprint", "arm", "settings", "seed", "status", "val_accuracy", "directory", "reason"]
    assert json.loads(json.dumps(row)) == row
    assert row["fingerprint"] == store.trials[6].fingerprint
    assert (row["arm"], row["settings"], row["seed"]) == ("warm", {"warmup": "2ep"}, 2)
    assert (row["status"], row["val_accuracy"], row["reason"]) == ("diverged", 800 / 837, "the loss is not finite")
    assert row["directory"] == str(store.directory / "trials" / row["fingerprint"])


def test_an_outcome_outlives_a_failure_of_its_worker(make, fake):
    """A diverged run of a stack has its outcome when a companion brings the worker down."""
    store = make()
    fake.finish(store.run(store.trials[0]), "diverged")
    store.fail(store.trials[0], "the process that ran it ended with SIGKILL")
    assert store.states()[0].status == "diverged"
    assert store.run(store.trials[0]).status() == "diverged"
    assert store.forget_failures() == 0


def test_a_failure_is_forgotten_once(make, fake):
    store = make()
    store.fail(store.trials[0], "never began")
    fake.begin(store.run(store.trials[1]))
    store.fail(store.trials[1], "broke down")
    assert store.forget_failures() == 2
    assert statuses(store)[:3] == ["missing", "stopped", "missing"]
    assert store.forget_failures() == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "complete"}', "\x00\x00"])
def test_a_damaged_result_is_a_failure_that_can_be_tried_again(make, fake, content):  # fault 96
    store = make()
    fake.finish(store.run(store.trials[0]))
    result = store.path(store.trials[0]) / "result.json"
    result.write_text(content)
    state = store.states()[0]
    assert (state.status, state.finished) == ("failed", False)
    assert "It is damaged" in state.reason
    assert store.forget_failures() == 1
    assert statuses(store) == ["stopped"] + ["missing"] * 11
    assert result.with_name("result.damaged.json").read_text() == content
    fake.finish(store.run(store.trials[0]))
    assert statuses(store) == ["complete"] + ["missing"] * 11


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "\xff"])
def test_a_damaged_failure_is_still_one(make, content):  # fault 96
    store = make()
    store.fail(store.trials[0], "broke down")
    (store.path(store.trials[0]) / "failure.json").write_text(content, encoding="latin-1")
    assert statuses(store)[0] == "failed"
    assert "failure.json is damaged" in store.states()[0].reason


def test_a_claim_is_respected_by_this_process_too(make):
    store = make()
    assert store.claim(store.trials[:3]) == store.trials[:3]
    assert store.claim(store.trials[:5]) == store.trials[3:5]
    store.release(store.trials[:1])
    assert store.claim(store.trials[:2]) == store.trials[:1]


def test_what_has_an_outcome_or_failed_cannot_be_claimed(make, fake):
    store = make()
    fake.finish(store.run(store.trials[0]))
    fake.finish(store.run(store.trials[1]), "diverged")
    store.fail(store.trials[2], "broke down")
    fake.begin(store.run(store.trials[3]))
    assert store.claim(store.trials[:5]) == store.trials[3:5]


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def claimed_by(store, trial, **facts):
    """Leave the claim of another process."""
    directory = store.directory / "claims"
    directory.mkdir(exist_ok=True)
    (directory / f"{trial.fingerprint}.1").write_bytes(as_slot(replace(lease_of_this_process(1), **facts)))


def stat_of(child):
    """What the kernel says of a process: its state first, the time it started as the 20th."""
    with open(f"/proc/{child.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def test_the_claim_of_an_ended_process_is_taken_over(make, ended):
    store = make()
    claimed_by(store, store.trials[0], process=ended)
    assert statuses(store)[0] == "missing"
    assert store.claim(store.trials[:1]) == store.trials[:1]
    assert statuses(store)[0] == "running"


def test_the_claim_of_a_live_process_is_respected(make):
    store = make()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = stat_of(child)[19]
        claimed_by(store, store.trials[0], process=child.pid, started=started)
        assert statuses(store)[0] == "running"
        assert store.claim(store.trials[:1]) == []
        store.release(store.trials[:1])  # not ours to give back
        assert statuses(store)[0] == "running"
        claimed_by(store, store.trials[1], process=child.pid, started=str(int(started) - 1))
        assert store.claim(store.trials[1:2]) == store.trials[1:2]  # the number was used again, by a younger process


def test_a_zombie_holds_nothing(make, until):
    """In a container nobody may ever take note of a process that has ended."""
    store = make()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        claimed_by(store, store.trials[0], process=child.pid, started=stat_of(child)[19])
        assert statuses(store)[0] == "running"
        child.kill()
        until(lambda: stat_of(child)[0] == "Z", "it is a zombie")
        assert statuses(store)[0] == "missing"
        assert store.claim(store.trials[:1]) == store.trials[:1]


def test_the_claim_of_another_host_is_respected(make, ended):
    store = make()
    claimed_by(store, store.trials[0], process=ended, host="another-host")
    assert statuses(store)[0] == "running"
    assert store.claim(store.trials[:1]) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "3", '{"host": "a", "process": 1}', "\x00" * 40])
def test_a_damaged_claim_is_none(make, content):  # fault 96
    store = make()
    store.claim(store.trials[:1])
    (store.directory / "claims" / f"{store.trials[0].fingerprint}.1").write_text(content)
    assert statuses(store)[0] == "missing"
    assert store.claim(store.trials[:1]) == store.trials[:1]


def test_what_an_ended_process_was_doing_has_failed(make, fake, ended):
    store = make()
    for trial in store.trials[:4]:
        claimed_by(store, trial, process=ended)
    fake.finish(store.run(store.trials[0]))
    fake.finish(store.run(store.trials[1]), "diverged")
    fake.begin(store.run(store.trials[2]))
    claimed_by(store, store.trials[4], process=ended, host="another-host")
    store.claim(store.trials[5:6])
    assert store.settle_claims_of(ended, "ended with SIGKILL", nobody) == store.trials[2:4]
    expected = ["complete", "diverged", "failed", "failed", "running", "running"] + ["missing"] * 6
    assert statuses(store) == expected
    assert [state.reason for state in store.states()[2:4]] == ["ended with SIGKILL"] * 2
    assert store.settle_claims_of(ended, "ended with SIGKILL", nobody) == []
    assert store.settle_claims_of(os.getpid(), "it lives", nobody) == []


def nobody(trial):
    return False


def test_what_is_spared_is_free_again(make, fake, ended):
    """Of three trials that a killed process had claimed one has its outcome, one is spared, one has failed."""
    store = make()
    for trial in store.trials[:3]:
        claimed_by(store, trial, process=ended)
        fake.begin(store.run(trial))
    fake.finish(store.run(store.trials[0]))
    spared = store.trials[1]
    assert store.settle_claims_of(ended, "ended with SIGKILL", lambda trial: trial == spared) == store.trials[1:3]
    assert statuses(store)[:4] == ["complete", "stopped", "failed", "missing"]
    assert store.claim([spared]) == [spared]
    assert (store.path(spared) / "log.txt").read_text().endswith(" ended with SIGKILL; it is taken up again\n")
    assert (store.path(store.trials[2]) / "log.txt").read_text().endswith(" failed: ended with SIGKILL\n")


def test_two_arms_share_a_trial(make, fake):
    text = ("[claims.worst]", '[arms.wide]\naxes = { warmup = ["2ep"] }\n\n[claims.worst]')
    store = make(text)
    assert len(store.trials) == 12
    cell = store.study.cells("wide")[0]
    fake.finish(store.run(store.trials[4]))
    assert store.states()[4].trial.fingerprint == cell.fingerprint(0)
    assert parse(to_toml(store.study)) == store.study


def test_failed_trials_may_begin_anew(make, fake):
    """What they had is moved aside; the others stay."""
    store = make()
    one, other = store.trials[:2]
    fake.finish(store.run(one))
    fake.begin(store.run(other))
    store.fail(other, "broke down")
    assert store.forget_failures(fresh=True) == 1
    assert statuses(store) == ["complete"] + ["missing"] * 11
    assert (store.directory / "trials" / f"{other.fingerprint}.old1/log.txt").exists()


def test_what_was_moved_aside_is_no_outcome(make, fake):
    """A result that could not be used does not count as one, nor is it taken for a seed that was left out."""
    store = make()
    fake.finish(store.run(store.trials[0]))
    (store.path(store.trials[0]) / "STATUS").write_text("diverged\n")
    assert statuses(store)[0] == "failed"
    assert store.forget_failures(fresh=True) == 1
    assert list((store.directory / "trials").glob("*/result.json")) == []
