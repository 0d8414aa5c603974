"""Which statistics whole runs are evaluated with, what they keep of them, and what they say (statements B3, B5, D5)."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from widestep.records.run import Run, open_existing
from widestep.train import loop
from widestep.train.assess import assess

Make = Callable[..., Any]
NOTE = "few steps for running batch-norm statistics: "


def rows(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "epochs.csv").read_text().splitlines()))


def final(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "checkpoints/final.safetensors")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The parameters before every step of the runs to come."""
    seen: list[dict[str, Tensor]] = []
    original = loop.gradients_of

    def gradients_of(states: Any, *arguments: Any) -> Any:
        seen.append({name: tensor.detach().clone() for name, tensor in states[0].parameters.items()})
        return original(states, *arguments)

    monkeypatch.setattr(loop, "gradients_of", gradients_of)
    return seen


@pytest.fixture
def by_policy(plain: Make, digits: Any) -> Make:
    """The statistics (2, M) of every policy at the end of a run, from its parameters before every step."""

    def compute(watched: list[dict[str, Tensor]], last: dict[str, Tensor], momentum: float) -> dict[str, Tensor]:
        found = {name: torch.tensor([[0.0], [1.0]]).double().expand(2, 72) for name in ("mean", "pooled", "worker0", "last")}
        for number, weights in enumerate(watched):
            network = plain(weights)
            step = network.moments(network.groups(digits.step(number), 4))
            keep = {name: 0.0 if name == "last" else 1 - momentum for name in found}
            found = {name: keep[name] * held + (1 - keep[name]) * step[name] for name, held in found.items()}
        network = plain(last)
        groups = [group for number in range(6) for group in network.groups(digits.step(number), 4)]
        return found | {"precise": network.moments(groups)["pooled"]}

    return compute


@pytest.mark.parametrize(
    ("fields", "used"),
    [
        ({}, "precise"),  # 12 steps at 0.1
        ({"batchnorm_recompute": "never"}, "mean"),
        ({"batchnorm_momentum": 0.4}, "mean"),  # .6^12 = .002
        ({"batchnorm_running": "pooled", "batchnorm_momentum": 0.4}, "pooled"),
        ({"batchnorm_running": "worker0", "batchnorm_recompute": "never"}, "worker0"),
        ({"batchnorm_running": "last"}, "last"),
        ({"batchnorm_running": "precise", "batchnorm_momentum": 0.9}, "precise"),
    ],
)
def test_the_policies_against_evaluating_by_hand(
    small: Make,
    train_one: Make,
    plain: Make,
    digits: Any,
    held: Make,
    watched: list[Any],
    by_policy: Make,
    tmp_path: Path,
    fields: dict[str, Any],
    used: str,
) -> None:  # B2, B3, B5
    """Statistics by a plain loop over all steps and workers, images judged one by one, in double precision."""
    recipe = small(**fields)
    result = train_one(tmp_path / "run", recipe, compare_batchnorm=True)
    weights = final(tmp_path / "run")
    expected = by_policy(watched, weights, recipe.batchnorm_momentum)
    torch.testing.assert_close(held(weights).double(), expected[used], rtol=5e-5, atol=5e-6)
    report = json.loads((tmp_path / "run/batchnorm.json").read_text())
    assert (report["step"], report["evaluated_with"]) == (12, used)
    assert sorted(report["policies"]) == sorted(expected)
    ids = digits.validation(300)
    for policy, statistics in expected.items():
        right, losses = plain(weights).judged(ids, statistics)
        found = report["policies"][policy]
        assert (found["val_correct"], found["val_images"]) == (sum(right), 300)
        assert found["val_accuracy"] == sum(right) / 300
        assert found["val_loss"] == pytest.approx(math.fsum(losses) / 300, rel=2e-5)
    assert len({entry["val_loss"] for entry in report["policies"].values()}) == 5
    assert {f"val_{name}": getattr(result, f"val_{name}") for name in ("correct", "images", "accuracy", "loss")} == report[
        "policies"
    ][used]


def test_comparing_policies_changes_no_byte(small: Make, train_runs: Make, content: Make, tmp_path: Path) -> None:
    """Nor does it in a stack, where each run has a comparison of its own."""
    recipes = {name: small(stack=2, seed=seed) for seed, name in enumerate("ab")}
    train_runs({tmp_path / name: recipe for name, recipe in recipes.items()})
    train_runs({tmp_path / f"compared-{name}": recipe for name, recipe in recipes.items()}, compare_batchnorm=True)
    found = []
    for name in "ab":
        assert content(tmp_path / name) == content(tmp_path / f"compared-{name}")
        assert not (tmp_path / name / "batchnorm.json").exists()
        report = json.loads((tmp_path / f"compared-{name}/batchnorm.json").read_text())
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert report["policies"]["precise"]["val_loss"] == result["val_loss"]
        found.append(report["policies"])
    assert found[0] != found[1]


@pytest.mark.parametrize("fields", [{}, {"batchnorm_recompute": "never"}, {"batchnorm_images": 64, "dropout": 0.3}])
def test_evaluating_changes_no_later_byte(
    small: Make, train_one: Make, lines: Make, tmp_path: Path, fields: dict[str, Any]
) -> None:  # B5
    """However often it happens: not weights, gradients or running statistics of any step, nor the last evaluation."""
    fields = {"augment": "shift-flip", **fields}
    usual = train_one(tmp_path / "usual", small(evaluate_every="2ep", **fields), digests=True)
    often = train_one(tmp_path / "often", small(evaluate_every="1st", **fields), digests=True)
    assert (len(rows(tmp_path / "usual")), len(rows(tmp_path / "often"))) == (1, 12)
    assert lines(tmp_path / "usual/digests.jsonl") == lines(tmp_path / "often/digests.jsonl")
    assert len(lines(tmp_path / "often/digests.jsonl")) == 12
    assert usual.weights_sha256 == often.weights_sha256
    assert (usual.val_correct, usual.val_loss) == (often.val_correct, often.val_loss)


WAYS: list[dict[str, Any]] = [
    {},
    {"batchnorm_running": "pooled", "batchnorm_recompute": "never", "val_images": 101},
    {"batchnorm_running": "last", "evaluation": "batch-means", "images_per_evaluation": 32},
    {"batchnorm": "sync", "precision": "bf16"},
    {"stack": 3, "seed": 4, "batchnorm_momentum": 0.5, "evaluate_every": "5st"},
]


@pytest.mark.parametrize("fields", WAYS, ids=lambda fields: "-".join(map(str, fields.values())) or "usual")
def test_a_checkpoint_is_evaluated_to_the_same_integers(
    small: Make, train_one: Make, tmp_path: Path, fields: dict[str, Any]
) -> None:  # D5
    """Final weights against the last row of the log and the result, the best ones against the best row."""
    result = train_one(tmp_path / "run", small(**fields))
    run, logged = open_existing(tmp_path / "run"), rows(tmp_path / "run")
    best = max(logged, key=lambda row: float(row["val_accuracy"]))  # the first of equals
    assert result.best_val_accuracy == float(best["val_accuracy"])
    for name, row in (("final", logged[-1]), ("best", best)):
        found = assess(run, run.checkpoints / f"{name}.safetensors")
        assert (found["val_correct"], found["val_images"]) == (int(row["val_correct"]), int(row["val_images"]))
        assert (found["val_accuracy"], found["val_loss"]) == (float(row["val_accuracy"]), float(row["val_loss"]))
    assert (result.val_correct, result.val_images) == (int(logged[-1]["val_correct"]), fields.get("val_images", 300))
    assert assess(run, run.checkpoints / "final.safetensors")["weights_sha256"] == result.weights_sha256


@pytest.mark.parametrize(
    ("fields", "images"),
    [
        ({"evaluate_every": "4st"}, "192"),  # all whole steps of an epoch of 200
        ({"evaluate_every": "4st", "batchnorm_images": 33, "batchnorm_running": "pooled"}, "64"),
        ({"evaluate_every": "4st", "tail": "short"}, "200"),
        ({"evaluate_every": "1ep", "batchnorm_momentum": 0.5}, "192"),  # .5^6 = .0156, .5^12 = .0002
        ({"evaluate_every": "4st", "batchnorm_recompute": "never"}, None),
        ({"evaluate_every": "1ep", "batchnorm_momentum": 0.6}, None),  # .4^6 = .0041
        ({"evaluate_every": "1ep", "batchnorm_running": "last"}, None),
        ({"evaluate_every": "1ep", "batchnorm_running": "precise"}, None),
    ],
)
def test_a_run_says_once_that_it_evaluates_otherwise(
    small: Make, train_one: Make, listening: Any, tmp_path: Path, fields: dict[str, Any], images: str | None
) -> None:  # B5
    train_one(tmp_path / "run", small(**fields), listening)
    log = tmp_path / "run/log.txt"
    logged = [line for line in log.read_text().splitlines() if NOTE in line] if log.exists() else []
    assert len(listening.notes) == len(logged) == (images is not None)
    for said in (*listening.notes, *logged):
        assert said.endswith(f"evaluations use statistics computed from {images} training images")


def test_evaluations_go_over_to_the_running_statistics(
    small: Make, train_one: Make, plain: Make, digits: Any, watched: list[Any], by_policy: Make, tmp_path: Path
) -> None:  # B5
    """At 0.5 the start weighs 1/64 after six steps and 1/128 after seven."""
    train_one(tmp_path / "run", small(batchnorm_momentum=0.5, evaluate_every="1st", epochs="8st", base_lr=0.3))
    logged = rows(tmp_path / "run")
    for number in (6, 7):
        expected = by_policy(watched[:number], watched[number], 0.5)
        losses = {
            policy: math.fsum(plain(watched[number]).judged(digits.validation(300), statistics)[1]) / 300
            for policy, statistics in expected.items()
        }
        used, other = ("precise", "mean") if number == 6 else ("mean", "precise")
        assert float(logged[number - 1]["val_loss"]) == pytest.approx(losses[used], rel=1e-4)
        assert float(logged[number - 1]["val_loss"]) != pytest.approx(losses[other], rel=1e-3)


def test_a_checkpoint_holds_the_running_statistics(
    small: Make, train_one: Make, held: Make, cuts: Any, watched: list[Any], by_policy: Make, tmp_path: Path
) -> None:  # R1, B3
    """Under all policies, as a plain loop has them; a run that goes on ends with those of a run that never stopped."""
    recipe = small(batchnorm_momentum=0.4, batchnorm_running="worker0")
    cuts.at(Run, "finish", 1)
    with pytest.raises(cuts.Cut):
        train_one(tmp_path / "run", recipe, checkpoint_every="5st")
    saved = load_file(tmp_path / "run/checkpoints/step-0000010.safetensors")
    expected = by_policy(watched[:10], watched[10], 0.4)
    for row, policy in zip(saved["running"], ("mean", "pooled", "worker0", "last"), strict=True):
        torch.testing.assert_close(row.double(), expected[policy], rtol=5e-5, atol=5e-6)
    cuts.mend()
    resumed, whole = train_one(tmp_path / "run", recipe), train_one(tmp_path / "whole", recipe)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert final(tmp_path / "run").keys() == final(tmp_path / "whole").keys()
