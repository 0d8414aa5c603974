"""Which trials are computed side by side: those of one shape at one step, in different slots."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.study import work
from widestep.study.study import Trial, parse, source_text

TRIALS = parse(source_text("poster-digits")).trials()


@pytest.fixture
def steps(monkeypatch):
    """`steps[trial.fingerprint] = 30` makes a trial go on from step 30."""
    found: dict[str, int] = {}
    monkeypatch.setattr(work, "saved_step", lambda store, trial: found.get(trial.fingerprint, 0))
    return found


def shapes(trials: list[Trial]) -> set[tuple[str, str]]:
    return {(str(trial.recipe.grid), str(trial.recipe.epochs)) for trial in trials}


def test_a_cell_of_twelve_seeds_is_a_stack(steps):
    groups = work.stacks(TRIALS, None)
    assert Counter(len(group) for group in groups) == {12: 17}
    for group in groups:
        assert len(shapes(group)) == 1
        assert sorted(trial.recipe.slot for trial in group) == list(range(12))
    assert sorted(trial.fingerprint for group in groups for trial in group) == sorted(t.fingerprint for t in TRIALS)


def test_runs_that_differ_in_rates_share_a_stack(steps):
    """Warmup, scaling and seed do not shape the computation: seeds 100..105 of one cell and 106..111 of another fit."""
    by_cell = [trial for trial in TRIALS if trial.arm == "warmup-40"]
    first, second = by_cell[:12], by_cell[12:24]
    assert first[0].settings != second[0].settings
    (group,) = work.stacks([*first[:6], *second[6:]], None)
    assert len(group) == 12


def test_runs_of_one_slot_do_not_share_a_stack(steps, parsed):
    """Of the seeds 0, 4, 1 and 6 in stacks of four, 0 and 4 have the same slot."""
    study = parsed(("[0, 1, 2, 3]", "[0, 4, 1, 6]"), ("[arms.warm]", "[set]\nstack = 4\n\n[arms.warm]"))
    groups = work.stacks(study.trials()[:4], None)
    assert [[trial.seed for trial in group] for group in groups] == [[0, 1, 6], [4]]


def test_runs_at_different_steps_do_not_share_a_stack(steps):
    cell = TRIALS[:12]
    steps.update({trial.fingerprint: 30 for trial in cell[:3]} | {cell[3].fingerprint: 60})
    groups = work.stacks(cell, None)
    assert [len(group) for group in groups] == [8, 3, 1]
    assert groups[2] == [cell[3]]


def test_the_longest_come_first(steps):
    """90 epochs of small batches, then 36 epochs from the smallest batch to the largest; a part of a stack is shorter."""
    batches = [group[0].recipe.grid.global_batch for group in work.stacks(TRIALS[::-1], None)]
    assert batches == [20] * 3 + [32] + [80] * 5 + [160] + [240] + [320] * 6
    partial = [trial for trial in TRIALS if trial.recipe.grid.global_batch == 32][:4]
    full = [trial for trial in TRIALS if trial.recipe.grid.global_batch == 320][:12]
    assert [len(group) for group in work.stacks(partial + full, None)] == [12, 4]


@given(st.sets(st.integers(0, len(TRIALS) - 1)), st.integers(0, 3))
def test_every_trial_is_in_exactly_one_group(chosen, num_steps):
    trials = [TRIALS[index] for index in chosen]
    at = {trial.fingerprint: index % (num_steps + 1) for index, trial in zip(chosen, trials, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "saved_step", lambda store, trial: at[trial.fingerprint])
        groups = work.stacks(trials, None)
    assert Counter(t.fingerprint for group in groups for t in group) == Counter(trial.fingerprint for trial in trials)
    for group in groups:
        assert len({trial.recipe.slot for trial in group}) == len(group)
        assert len({(trial.recipe.stack_key, at[trial.fingerprint]) for trial in group}) == 1


def test_the_step_a_run_goes_on_from(make):
    """The names alone say it: nothing is read, and what has no such name does not count."""
    store = make()
    trial = store.trials[0]
    assert work.saved_step(store, trial) == 0
    folder = store.run(trial).checkpoints
    folder.mkdir(parents=True)
    for name in (
        "best.safetensors",
        "step-340.safetensors",
        ".step-0000990.safetensors.g1.7.0.tmp",
        "step-0000980.safetensors.damaged",
    ):
        (folder / name).write_text("")
    assert work.saved_step(store, trial) == 0
    for step in (0, 320, 340, 12_345_678):
        (folder / f"step-{step:07}.safetensors").write_text("")
        assert work.saved_step(store, trial) == step
