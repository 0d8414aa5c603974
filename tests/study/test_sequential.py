"""Looks at a study on disk: which seeds are wanted, what is refused, and what a damaged look comes to."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import StoreError, UsageError
from widestep.study.audit import audit
from widestep.study.sequential import Look, Sequential, next_look, num_runs, read_looks, write_look
from widestep.study.store import StudyStore
from widestep.study.study import changed, parse, to_toml

LOOKS = ("[arms.warm]", "[sequential]\nfirst = 2\nstep = 1\n\n[arms.warm]")
TWO_ARMS = (
    "[claims.worst]",
    '[arms.rule]\naxes = { scaling = ["sqrt", "none", "linear"] }\n\n[claims.same]\ntext = "Equal."\ntest = "equivalent"\n'
    'arms = ["rule"]\naxis = "scaling"\nbetween = ["sqrt", "none"]\n\n[claims.worst]',
)


@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 30))
def test_looks_rise_to_all_seeds(first, step, num_seeds):
    counts = Sequential(first=first, step=step).counts(num_seeds)
    assert counts[0] == min(first, num_seeds)
    assert counts[-1] == num_seeds
    assert all(b - a == step for a, b in itertools.pairwise(counts[:-1]))
    assert all(0 < b - a <= step for a, b in itertools.pairwise(counts))


def test_a_definition_comes_back_from_toml(parsed):
    study = parsed(LOOKS)
    assert parse(to_toml(study)) == study
    usual = changed(parsed(), is_sequential=True)
    assert '[sequential]\nfirst = 4\nstep = 2\nspending = "obrien-fleming"' in to_toml(usual)
    assert changed(study).sequential is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("first = 2", "first = 1", "first"),
        ("step = 1", "step = 0", "step"),
        ("step = 1", 'spending = "haybittle"', "spending"),
        ("step = 1", "stop = 1", "sequential.stop"),
    ],
)
def test_what_is_no_plan_of_looks(parsed, old, new, said):
    with pytest.raises(UsageError, match=said):
        parsed((LOOKS[0], LOOKS[1].replace(old, new)))


def test_without_claims_nothing_can_be_decided(parsed, twelve_text):
    text = twelve_text[: twelve_text.index("[claims.worst]")]
    with pytest.raises(UsageError, match=r"has claims\. Study twelve has none; leave out --until decided"):
        changed(parsed(text=text), is_sequential=True)


def wanted(store):
    return sorted((trial.arm, *map(str, trial.settings.values()), trial.seed) for trial in store.trials)


def test_settings_of_open_claims_get_the_next_seeds(make):
    """Three warmups and three rules; warmup 2ep and scaling linear are one setting, which belongs to the open claim."""
    store = make(LOOKS, TWO_ARMS)
    study = store.study
    assert len(store.trials) == 5 * 2
    cells = {"worst": study.cells("warm"), "same": study.cells("rule")[:2]}
    assert num_runs(study, []) == (10, 20)
    write_look(store.directory, next_look(study, [], {"same": "supported", "worst": "undecided"}, cells))
    assert wanted(store) == sorted(
        [("warm", warmup, seed) for warmup in ("0ep", "2ep", "4ep") for seed in (0, 1, 2)]
        + [("rule", rule, seed) for rule in ("sqrt", "none") for seed in (0, 1)]
    )
    assert not store.is_concluded()
    write_look(store.directory, next_look(study, store.looks(), {"same": "supported", "worst": "supported"}, cells))
    assert store.is_concluded()
    assert (len(store.trials), num_runs(study, store.looks())) == (13, (13, 20))
    assert StudyStore.open(store.directory).trials == store.trials


def test_the_last_look_concludes_what_is_open(make):
    store = make(LOOKS)
    for number in (1, 2, 3):
        assert not store.is_concluded(), number
        look = next_look(store.study, store.looks(), {"worst": "undecided"}, {"worst": store.study.cells("warm")})
        write_look(store.directory, look)
    assert store.is_concluded()
    assert len(store.trials) == 12


def test_a_setting_that_no_claim_compares_runs_before_the_first_look_only(make):
    store = make(LOOKS, TWO_ARMS)
    cells = {"worst": [], "same": store.study.cells("rule")[:2]}
    look = next_look(store.study, [], {"same": "undecided", "worst": "undecided"}, cells)
    assert sorted(look.wanted.values()) == [2, 2, 2, 3, 3]


def test_an_audit_misses_nothing_that_is_not_wanted(make, fake):
    store = make(LOOKS)
    for trial in store.trials:
        fake.finish(store.run(trial))
    found = audit(store)
    assert (found.num_runs, found.num_without_ledger) == (6, 6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"look": 2, "seeds": 2, "verdicts": {}, "wanted": {}}',
        '{"look": 1, "seeds": 2, "verdicts": [], "wanted": {}}',
        '{"look": 1, "seeds": 2, "verdicts": {}, "wanted": {"x": "2"}}',
    ],
)
def test_a_damaged_look_is_named(make, text):
    store = make(LOOKS)
    (store.directory / "looks").mkdir()
    (store.directory / "looks" / "1.json").write_text(text)
    with pytest.raises(StoreError, match=r"1\.json must be .*damaged"):
        store.trials  # noqa: B018


def test_looks_are_read_in_a_row(make):
    store = make(LOOKS)
    write_look(store.directory, Look(2, 3, {"worst": "supported"}, {}))
    assert read_looks(store.directory, store.study) == []


@pytest.fixture
def finished(make, fake):
    """`finished(changes)` begins a study in which one trial has an outcome."""

    def begun(*changes):
        store = make(*changes)
        fake.finish(store.run(store.trials[0]))
        return store

    return begun


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((), (LOOKS,), "begun with all seeds at once and has results; leave out --until decided"),
        ((LOOKS,), (), "begun with --until decided and has results; give --until decided again"),
        ((LOOKS,), ((LOOKS[0], LOOKS[1].replace("step = 1", "step = 2")),), "declared before it runs"),
        ((LOOKS,), (LOOKS, ("[0, 1, 2, 3]", "[0, 1, 2, 3, 4]")), "declared before it runs"),
        ((LOOKS,), (LOOKS, ('"4ep"]', '"8ep"]')), "declared before it runs"),
    ],
)
def test_how_a_study_is_judged_may_not_change_under_way(finished, parsed, before, after, said):
    store = finished(*before)
    with pytest.raises(UsageError, match=said):
        StudyStore.create(store.directory, parsed(*after))


def test_it_may_change_before_the_first_outcome(make, parsed):
    store = make(LOOKS)
    assert StudyStore.create(store.directory, parsed()).study.sequential is None


def test_titles_and_notes_may_change_any_time(finished, parsed):
    store = finished(LOOKS)
    assert StudyStore.create(store.directory, parsed(LOOKS, ("Three warmups, four", "Four"))).study.title == "Four seeds"


def test_a_look_is_written_as_it_reads(make):
    store = make(LOOKS)
    look = Look(1, 2, {"worst": "undecided"}, {"x": 3})
    write_look(store.directory, look)
    assert json.loads((store.directory / "looks" / "1.json").read_text())["verdicts"] == {"worst": "undecided"}
    assert store.looks() == [look]
