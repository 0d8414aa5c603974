"""Whole runs with AdaScale: their rates, their ends, interrupted, and beside runs with other rules (statements L6, R1)."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from widestep.errors import UsageError
from widestep.workers.engine import GradientEngine

Make = Callable[..., Any]
FIELDS = {"scaling": "adascale", "epochs": "1", "base_lr": 0.05, "workers_per_forward": 4}
"""25 steps of one worker with 8 images; 6 steps of four workers are an epoch."""


def gains_of(metrics: list[dict[str, Any]], num_workers: int, kept: float) -> list[float]:
    """The gains as published, from the norms in the records."""
    found, variance, square = [], 0.0, 0.0
    for record in metrics:
        mean_square, square_of_mean = record["worker_gradient_norm"] ** 2, record["gradient_norm"] ** 2
        scatter = max(0.0, num_workers / (num_workers - 1) * (mean_square - square_of_mean))
        variance = kept * variance + (1 - kept) * scatter
        square = kept * square + (1 - kept) * max(0.0, square_of_mean - scatter / num_workers)
        found.append((variance + square) / (variance / num_workers + square))
    return found


def epochs_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "epochs.csv").read_text().splitlines()))


@pytest.mark.parametrize(("smoothing", "kept"), [(None, 0.996), (0.3, 0.3)])
def test_the_records_of_a_run(
    small: Make, train_one: Make, lines: Make, tmp_path: Path, smoothing: float | None, kept: float
) -> None:  # L6, L1
    """The rate rises to .05 over 6 steps of one worker and falls by 10 after 15, each time multiplied by the gain."""
    recipe = small(
        **FIELDS, adascale_smoothing=smoothing, warmup="6st", warmup_start="zero", lr_decay="step", decay_at="15st"
    )
    result = train_one(tmp_path / "run", recipe)
    metrics, ledger = lines(tmp_path / "run/metrics.jsonl"), lines(tmp_path / "run/ledger.jsonl")
    assert [record["step"] for record in metrics] == list(range(result.steps))
    gains = [record["gain"] for record in metrics]
    assert gains == pytest.approx(gains_of(metrics, 4, kept), rel=1e-9)
    assert all(1 <= gain <= 4 for gain in gains)
    assert len(set(gains)) > result.steps // 2
    progress = 0.0
    for record, entry in zip(metrics, ledger, strict=True):
        assert progress < 25  # the next step is taken
        place = int(progress)
        rate = 0.05 * (place + 1) / 6 if place < 6 else 0.05 if place < 15 else 0.005
        assert record["lr"] == pytest.approx(record["gain"] * rate, rel=1e-12)
        assert [group["lr"] for group in entry["groups"]] == [record["lr"]]
        assert entry["gain"] == record["gain"]
        progress += record["gain"]
        assert record["progress"] == pytest.approx(progress, rel=1e-12)
    assert progress >= 25
    assert 25 / 4 <= result.steps < 25
    assert (result.status, result.train_images_seen, result.epochs) == ("complete", 32 * result.steps, result.steps / 6)
    last = epochs_of(tmp_path / "run")[-1]
    assert (int(last["step"]), float(last["lr"])) == (result.steps, metrics[-1]["lr"])
    assert result.val_correct == int(last["val_correct"])


def test_one_worker_gains_nothing(small: Make, train_one: Make, lines: Make, tmp_path: Path) -> None:  # L6
    """AdaScale with one worker is training without any rule, byte for byte."""
    shape = {"grid": "1x1x32", "lr_decay": "cosine", "warmup": "3st", "warmup_start": "zero"}
    plain = train_one(tmp_path / "none", small(**shape, scaling="none"))
    found = train_one(tmp_path / "adascale", small(**shape, scaling="adascale"))
    assert found.weights_sha256 == plain.weights_sha256
    assert (
        (found.steps, found.epochs, found.val_loss)
        == (plain.steps, plain.epochs, plain.val_loss)
        == (12, 2.0, found.val_loss)
    )
    records = lines(tmp_path / "adascale/metrics.jsonl")
    assert [(record["gain"], record["progress"]) for record in records] == [(1.0, step + 1.0) for step in range(12)]
    assert [record["lr"] for record in records] == [record["lr"] for record in lines(tmp_path / "none/metrics.jsonl")]


def test_a_run_cut_off_goes_on(small: Make, train_one: Make, content: Make, cuts: Any, tmp_path: Path) -> None:  # R1, L6
    """Progress and estimates are part of the state: the same rates, the same end, the same bytes."""
    recipe = small(**FIELDS, tail="short", evaluate_every="5st", lr_decay="linear", dropout=0.2)
    whole = train_one(tmp_path / "whole", recipe)
    for nth in (4, 4):
        cuts.at(GradientEngine, "gradients", nth)
        with pytest.raises(cuts.Cut):
            train_one(tmp_path / "run", recipe, checkpoint_every="2st")
        cuts.mend()
    assert train_one(tmp_path / "run", recipe).interruptions == 2
    assert whole.steps > 6
    assert content(tmp_path / "run") == content(tmp_path / "whole")


STACK = {"stack": 4, "grid": "1x4x32", "tail": "short", "epochs": "1", "worker_norms": True, "dropout": 0.1}
"""An epoch is 2 steps, of 128 and 72 images, or 7 steps of one worker."""
RULES: dict[str, dict[str, Any]] = {
    "adascale": {"seed": 4, "scaling": "adascale", "base_lr": 0.05},
    "none": {"seed": 1, "scaling": "none"},
    "eager": {"seed": 6, "scaling": "adascale", "base_lr": 0.4, "adascale_smoothing": 0.0, "optimizer": "nesterov"},
    "linear": {"seed": 3, "scaling": "linear", "reference_batch": 64, "warmup": "1st"},
}


@pytest.mark.parametrize(("every", "distance"), [("3st", 3), ("1ep", 2)])
def test_rules_side_by_side(
    small: Make, train_runs: Make, train_one: Make, content: Make, tmp_path: Path, every: str, distance: int
) -> None:  # L6
    """Each run of a stack ends at its own step with the bytes it has alone."""
    recipes = {name: small(**STACK, evaluate_every=every, **fields) for name, fields in RULES.items()}
    results = train_runs({tmp_path / name: recipe for name, recipe in recipes.items()}, compare_batchnorm=True)
    steps = {name: result.steps for name, result in zip(recipes, results, strict=True)}
    assert (steps["none"], steps["linear"]) == (2, 2)
    assert len({steps["none"], steps["adascale"], steps["eager"]}) == 3
    for (name, recipe), together in zip(recipes.items(), results, strict=True):
        alone = train_one(tmp_path / f"alone-{name}", recipe, compare_batchnorm=True)
        assert (together.status, together.steps) == ("complete", alone.steps)
        assert content(tmp_path / name) == content(tmp_path / f"alone-{name}")
        compared = [(tmp_path / place / "batchnorm.json").read_bytes() for place in (name, f"alone-{name}")]
        assert compared[0] == compared[1]
        due = [int(row["step"]) for row in epochs_of(tmp_path / name)]
        assert due == [*range(distance, alone.steps, distance), alone.steps]


def test_a_stack_is_cut_off_when_one_of_its_runs_has_ended(
    small: Make, train_runs: Make, content: Make, cuts: Any, tmp_path: Path
) -> None:  # R1
    """What is finished stays finished; the others go on from where they were saved."""
    recipes = {tmp_path / name: small(**STACK, **RULES[name]) for name in ("adascale", "none")}
    whole = {tmp_path / "whole" / place.name: recipe for place, recipe in recipes.items()}
    train_runs(whole)
    cuts.at(GradientEngine, "gradients", 3)
    with pytest.raises(cuts.Cut):
        train_runs(recipes, checkpoint_every="1st")
    cuts.mend()
    assert [(place / "STATUS").read_text() for place in recipes] == ["running\n", "complete\n"]
    (unfinished,) = (place for place in recipes if place.name == "adascale")
    train_runs({unfinished: recipes[unfinished]})
    for place in recipes:
        assert content(place) == content(tmp_path / "whole" / place.name)


def test_runs_that_do_not_measure_norms_are_no_companions(small: Make, train_runs: Make, tmp_path: Path) -> None:
    """The norms are part of what a stack computes."""
    recipes = [small(stack=2, seed=0, scaling="adascale", epochs="1"), small(stack=2, seed=1, epochs="1")]
    with pytest.raises(UsageError, match="Runs of one stack share all fields"):
        train_runs({tmp_path / str(number): recipe for number, recipe in enumerate(recipes)})
