"""How far trials are, read from the ends of files that may be growing, torn or damaged."""

import json
import os

import pytest

from widestep.study.progress import progress_of

COLUMNS = "epoch,step,lr,train_loss,val_loss,val_correct,val_images,val_accuracy\n"
HALF = ("[arms.warm]", '[set]\nepochs = "300st"\n\n[arms.warm]')


def row(epoch):
    return f"{epoch},10,0.1,1.0,,5,10,0.5\n"


@pytest.fixture
def begun(make, fake):
    """A study of 36 epochs whose first trial is under way."""

    def begin(*changes):
        store = make(*changes)
        store.claim(store.trials[:1])
        fake.begin(store.run(store.trials[0]))
        return store

    return begin


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("", None),
        (COLUMNS, None),
        (COLUMNS[:20], None),
        (COLUMNS + row(1), 1),
        (COLUMNS + row(1) + row(2.5)[:-1], 1),
        (COLUMNS + "".join(map(row, range(1, 400))), 399),
        (COLUMNS + "\x00" * 50 + "\n", None),
        (COLUMNS + "one,two\n", None),
        (COLUMNS + "x" * 9000 + "\n", None),
    ],
)
def test_the_newest_evaluation(begun, text, epoch):
    store = begun()
    (store.path(store.trials[0]) / "epochs.csv").write_text(text)
    found = progress_of(store.states()[0])
    assert (found.epoch, found.num_epochs) == (epoch, 36.0)
    assert found.share == (None if epoch is None else min(1.0, epoch / 36))


def test_a_length_in_steps_has_no_share(begun):
    store = begun(HALF)
    (store.path(store.trials[0]) / "epochs.csv").write_text(COLUMNS + row(1))
    found = progress_of(store.states()[0])
    assert (found.epoch, found.num_epochs, found.share) == (1.0, None, None)


def test_since_when(begun, fake):
    store = begun()
    directory = store.path(store.trials[0])
    assert progress_of(store.states()[0]).since is None  # claimed, and nothing else
    run = store.run(store.trials[0])
    run.event("started", step=0)
    run.event("resumed", step=7)
    run.close()
    times = [json.loads(line)["time"] for line in (directory / "history.jsonl").read_text().splitlines()]
    assert progress_of(store.states()[0]).since == times[1]
    with (directory / "history.jsonl").open("a") as file:
        file.write("[3]\n")
    assert progress_of(store.states()[0]).since is None
    store.fail(store.trials[0], "broke down")
    os.utime(directory / "failure.json", (1_700_000_000.25, 1_700_000_000.25))
    failed = progress_of(store.states()[0])
    assert failed.since == "2023-11-14T22:13:20.250+00:00"
    assert failed.log == directory / "log.txt"


def test_outcomes_and_what_was_never_begun(make, fake):
    store = make()
    fake.finish(store.run(store.trials[0]), "diverged")
    rows = [progress_of(state) for state in store.states()[:2]]
    assert [one.share for one in rows] == [1.0, 0.0]
    assert [one.log for one in rows] == [None, None]
