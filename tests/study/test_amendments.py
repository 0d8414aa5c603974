"""A study that grows after results were seen: what ran stays, what is new runs, and the change is written down."""

import json

import pytest

from widestep.errors import StoreError, UsageError
from widestep.study.amendments import read_amendments
from widestep.study.work import work

ANOTHER = (
    "[claims.worst]",
    '[claims.falls]\ntext = "It falls."\ntest = "falls"\narms = ["warm"]\naxis = "warmup"\n\n[claims.worst]',
)
ARM = ("[claims.worst]", '[arms.wide]\nset = { grid = "40x1x8" }\n\n[claims.worst]')
VALUE = ('"4ep"]', '"4ep", "8ep"]')
SEEDS = ("[0, 1, 2, 3]", "[0, 1, 2, 3, 4, 5]")
FIGURE = ("[claims.worst]", '[[figures]]\nnumber = 1\nkind = "final"\narm = "warm"\ntitle = "Warmup"\n\n[claims.worst]')


@pytest.fixture
def finish(fake):
    """Bring all that is left of a study to an outcome and return how many trials were executed."""

    def finished(store):
        executed = []

        def execute(trials):
            for trial in trials:
                executed.append(trial.fingerprint)
                fake.finish(store.run(trial))

        work(store, execute)
        return len(executed)

    return finished


@pytest.mark.parametrize(
    ("change", "num_more", "words"),
    [
        (SEEDS, 6, "seeds 4, 5 added"),
        (ARM, 4, "arm wide added"),
        (VALUE, 4, "the settings of arm warm"),
        (ANOTHER, 0, "claim falls added"),
    ],
)
def test_what_is_added_runs_and_nothing_else(make, finish, change, num_more, words):
    assert finish(make()) == 12
    grown = make(change)
    assert finish(grown) == num_more
    (found,) = read_amendments(grown.directory)
    assert (found.num_finished, found.changes) == (12, [words])
    assert found.added_claims == (["falls"] if change is ANOTHER else [])
    assert found.changed_claims == (["worst"] if change is VALUE else [])
    assert finish(make(change)) == 0
    assert len(read_amendments(grown.directory)) == 1


def test_a_figure_changes_nothing_that_is_judged(make, finish):
    finish(make())
    grown = make(FIGURE)
    assert finish(grown) == 0
    assert len(grown.study.figures) == 1
    assert read_amendments(grown.directory) == []


def test_before_there_is_a_result_nothing_needs_to_be_told(make, fake):
    fake.begin(make().run(make().trials[0]))
    assert read_amendments(make(ANOTHER, SEEDS).directory) == []


def test_what_is_left_out_stays_on_disk_and_comes_back(make, finish):
    store = make(ARM)
    assert finish(store) == 16
    fewer = make(("[0, 1, 2, 3]", "[0, 1]"))
    assert (len(fewer.trials), finish(fewer)) == (6, 0)
    assert len(list((store.directory / "trials").iterdir())) == 16
    assert finish(make(ARM)) == 0
    assert [one.changes for one in read_amendments(store.directory)] == [
        ["seeds 2, 3 left out", "arm wide left out"],
        ["seeds 2, 3 added", "arm wide added"],
    ]


@pytest.mark.parametrize("change", [("[claims.worst]", "[claims.other]"), ('"worst"', '"falls"')])
def test_a_claim_is_neither_withdrawn_nor_changed_after_results(make, fake, change):
    store = make()
    fake.finish(store.run(store.trials[0]))
    with pytest.raises(UsageError, match=r"claims changed although .* add a claim beside the old ones, or"):
        make(change)
    assert read_amendments(store.directory) == []


def test_a_sentence(make, fake):
    store = make()
    fake.finish(store.run(store.trials[0]))
    make(SEEDS, ANOTHER)
    (found,) = read_amendments(store.directory)
    expected = "1 trial had an outcome: seeds 4, 5 added; claim falls added."
    assert found.sentence == f"Changed on {found.time[:10]}, after {expected}"


@pytest.mark.parametrize(
    "content", ["[]\n", "{}\n", "nonsense\n", '{"time": 3}\n', "NUMBER", "CHANGES", "3\n", '"text"\n', "null\n"]
)
def test_a_damaged_record(make, fake, content):
    store = make()
    fake.finish(store.run(store.trials[0]))
    make(SEEDS)
    path = store.directory / "amendments.jsonl"
    good = json.loads(path.read_text())
    wrong = {"NUMBER": {**good, "num_finished": True}, "CHANGES": {**good, "changes": "all"}}
    path.write_text(json.dumps(wrong[content]) + "\n" if content in wrong else content)
    with pytest.raises(StoreError, match=r"amendments\.jsonl"):
        read_amendments(store.directory)
