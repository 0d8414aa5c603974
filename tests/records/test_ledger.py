"""Ledgers: equal exactly when the same was applied at the steps that both recorded, and where they first differ."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widestep.errors import StoreError
from widestep.records.ledger import Difference, first_difference, read_ledger

DECAYED = {"name": "decayed", "lr": 3.0, "weight_decay": 5e-5, "momentum": 0.9, "num_tensors": 41, "num_numbers": 9000}
FREE = {"name": "free", "lr": 3.0, "weight_decay": 0.0, "momentum": 0.9, "num_tensors": 21, "num_numbers": 60}


def record(step=0, **changes):
    whole = {
        "images": 30720,
        "gradient_scale": 1 / 30720,
        "clip": None,
        "gain": None,
        "batchnorm_images": 128,
        "image_ids": f"{step:016x}",
    }
    return {"step": step, "groups": [dict(DECAYED), dict(FREE)], **whole, **changes}


@pytest.fixture
def write(tmp_path):
    """`write("a", records)` writes a ledger and returns its path."""

    def written(name, records, end="\n"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in records) + end.removesuffix("\n"))
        return path

    return written


def with_groups(*groups):
    return record(groups=[dict(group) for group in groups])


def same_in_other_words():
    part = {**DECAYED, "num_tensors": 40}
    return {
        "names": with_groups({**DECAYED, "name": "a"}, {**FREE, "name": "b"}),
        "no names": with_groups({k: v for k, v in DECAYED.items() if k != "name"}, FREE),
        "order of groups": with_groups(FREE, DECAYED),
        "order of values": with_groups(dict(reversed(DECAYED.items())), FREE),
        "one group as two": with_groups(part, FREE, {**part, "num_tensors": 1}),
        "a group of nothing": with_groups(DECAYED, FREE, {**FREE, "lr": 7.0, "num_tensors": 0}),
        "counts of numbers": with_groups({**DECAYED, "num_numbers": 1}, FREE),
        "whole numbers": with_groups({**DECAYED, "lr": 3}, {**FREE, "lr": 3, "weight_decay": 0}),
        "negative zero": with_groups(DECAYED, {**FREE, "weight_decay": -0.0}),
        "a limit that did not bind": record(clip=1e9),
        "a gain that is in the rate": record(gain=1.0),
    }


@pytest.mark.parametrize("changed", same_in_other_words().values(), ids=same_in_other_words())
def test_what_makes_no_difference(write, changed):
    one, other = write("one", [record()]), write("other", [changed])
    assert read_ledger(one).digest == read_ledger(other).digest
    assert read_ledger(one).compare(read_ledger(other)).same
    assert first_difference(one, other) is None


DIFFERENT = {
    "lr 3.0 against 0.0125": with_groups({**DECAYED, "lr": 0.0125}, {**FREE, "lr": 0.0125}),
    "lr 3.0 for 62 against 3.0 for 41 and 1.0 for 21 tensors": with_groups(DECAYED, {**FREE, "lr": 1.0}),
    "lr 3.0 against 3.0000000000000004": with_groups(
        {**DECAYED, "lr": 3.0000000000000004}, {**FREE, "lr": 3.0000000000000004}
    ),
    "weight_decay 5e-05 for 41 and 0.0 for 21 against 5e-05 for 40 and 0.0 for 22 tensors": with_groups(
        {**DECAYED, "num_tensors": 40}, {**FREE, "num_tensors": 22}
    ),
    "lr 3.0 for 62 against 3.0 for 73 tensors": with_groups(DECAYED, {**FREE, "num_tensors": 32}),
    "momentum 0.9 against 0.8": with_groups({**DECAYED, "momentum": 0.8}, {**FREE, "momentum": 0.8}),
    "nesterov none against True": with_groups({**DECAYED, "nesterov": True}, {**FREE, "nesterov": True}),
    "beta2 none for 62 against 0.99 for 41 and none for 21 tensors": with_groups({**DECAYED, "beta2": 0.99}, FREE),
    "trust largest none for 62 against 0.1 for 41 and none for 21 tensors": with_groups(
        {**DECAYED, "trust": {"smallest": 0.001, "median": 0.01, "largest": 0.1}}, {**FREE, "trust": None}
    ),
    "images 30,720 against 30,592": record(images=30592),
    "gradient_scale 3.25521e-05 against 1.6276e-05": record(gradient_scale=1 / 61440),
    "batchnorm_images 128 against 64": record(batchnorm_images=64),
    "image_ids 0000000000000000 against 00000000000000ff": record(image_ids="00000000000000ff"),
}


@pytest.mark.parametrize(("what", "changed"), DIFFERENT.items(), ids=[words.partition(" ")[0] for words in DIFFERENT])
def test_what_makes_a_difference(write, what, changed):
    one, other = write("one", [record()]), write("other", [changed])
    assert read_ledger(one).digest != read_ledger(other).digest
    assert not read_ledger(one).compare(read_ledger(other)).same
    assert first_difference(one, other) == Difference(0, what)


def test_values_in_another_combination(write):
    groups = [{"lr": lr, "weight_decay": decay, "num_tensors": 5} for lr, decay in ((1.0, 0.0), (2.0, 0.1))]
    crossed = [{"lr": lr, "weight_decay": decay, "num_tensors": 5} for lr, decay in ((1.0, 0.1), (2.0, 0.0))]
    one, other = write("one", [record(groups=groups)]), write("other", [record(groups=crossed)])
    assert read_ledger(one).digest != read_ledger(other).digest
    assert str(first_difference(one, other)) == "step 0: the values of the parameter groups in another combination"


def rates(pairs):
    return [record(step, groups=[{"lr": lr, "num_tensors": 1}]) for step, lr in pairs]


def test_only_steps_that_both_recorded_count(write):
    every = write("every", rates((step, 9.0 if step in (3, 6) else 1.0) for step in range(10)))
    fourth = write("fourth", rates((step, 1.0) for step in (3, 7, 9)))
    fifth = write("fifth", rates((step, 1.0) for step in (4, 9)))
    a, b, c = (read_ledger(path) for path in (every, fourth, fifth))
    assert [(one.num_steps, one.last_step) for one in (a, b, c)] == [(10, 9), (3, 9), (2, 9)]
    for _ in range(2):  # what was worked out once is kept
        assert (a.compare(b).num_steps, a.compare(b).same) == (3, False)
        assert (b.compare(a).num_steps, b.compare(a).same) == (3, False)
        assert (a.compare(c).num_steps, a.compare(c).same) == (2, True)
        assert (b.compare(c).num_steps, b.compare(c).same) == (1, True)
    assert first_difference(every, fourth) == Difference(3, "lr 9.0 against 1.0")
    assert first_difference(fourth, every) == Difference(3, "lr 1.0 against 9.0")
    assert first_difference(every, fifth) is None
    assert str(Difference(1234, "lr 1.0 against 9.0")) == "step 1,234: lr 1.0 against 9.0"


def test_the_same_rates_at_other_steps_are_no_equal_ledgers(write):
    one, other = read_ledger(write("one", rates([(0, 1.0)]))), read_ledger(write("other", rates([(1, 1.0)])))
    assert one.digest != other.digest
    assert one.compare(other).num_steps == 0


def test_a_torn_line_and_a_missing_file(write, tmp_path):
    torn = write("torn", rates([(0, 1.0), (1, 1.0)]), end='{"step": 2, "gro')
    assert read_ledger(torn).last_step == 1
    nothing = read_ledger(tmp_path / "none.jsonl")
    assert (nothing.num_steps, nothing.last_step) == (0, None)
    assert first_difference(torn, tmp_path / "none.jsonl") is None


@pytest.mark.parametrize(
    "text",
    [
        "x\n",
        "[]\n",
        "{}\n",
        '{"step": 0}\n',
        '{"step": 0, "groups": 3}\n',
        '{"step": 0, "groups": [3]}\n',
        '{"step": 0, "groups": [{"lr": 1.0}]}\n',
        '{"step": 0, "groups": [{"lr": [{}], "num_tensors": 1}]}\n',
        '{"step": "0", "groups": []}\n',
        '{"step": -1, "groups": []}\n',
        '{"step": 1.5, "groups": []}\n',
        '{"step": 3, "groups": []}\n{"step": 3, "groups": []}\n',
        '{"step": 3, "groups": []}\n{"step": 2, "groups": []}\n',
    ],
)
def test_damage_is_named(tmp_path, text):
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"ledger\.jsonl.*damaged"):
        read_ledger(path)


VALUES = st.sampled_from([0.0, 0.1, 0.30000000000000004, 0.3, 3.0])
GROUP = st.fixed_dictionaries({"lr": VALUES, "weight_decay": VALUES, "num_tensors": st.integers(1, 3)})
STEP = st.fixed_dictionaries(
    {"groups": st.lists(GROUP, min_size=1, max_size=3), "gradient_scale": VALUES, "images": st.just(8)}
)
LEDGERS = st.dictionaries(st.integers(0, 6), STEP, max_size=5)


def applied(step):
    """The reference: how many tensors are stepped with which values, and the scale."""
    counts = {}
    for group in step["groups"]:
        values = (group["lr"], group["weight_decay"])
        counts[values] = counts.get(values, 0) + group["num_tensors"]
    return counts, step["gradient_scale"]


@settings(max_examples=150)
@given(first=LEDGERS, second=LEDGERS, alike=st.booleans())
def test_ledgers_compare_as_what_they_hold(tmp_path_factory, first, second, alike):
    if alike:  # as chance would hardly have it
        second = {**second, **copy.deepcopy(first)}
    folder = tmp_path_factory.getbasetemp()
    paths = [folder / "first.jsonl", folder / "second.jsonl"]
    for path, steps in zip(paths, (first, second), strict=True):
        path.write_text("".join(json.dumps({"step": step, **steps[step]}) + "\n" for step in sorted(steps)))
    one, other = (read_ledger(path) for path in paths)
    common = sorted(first.keys() & second.keys())
    differing = [step for step in common if applied(first[step]) != applied(second[step])]
    assert (one.compare(other).num_steps, one.compare(other).same) == (len(common), not differing)
    found = first_difference(*paths)
    assert (found and found.step) == (differing[0] if differing else None)
    assert (one.digest == other.digest) == (first.keys() == second.keys() and not differing)
