"""A step that is given to a device whose numbers come over later: nothing is read in it, and nothing else differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from widestep.models.build import build_model
from widestep.optim.build import applied, clip_factor, clip_factor_on_device, trust_ratios
from widestep.plan.recipe import OptimizerName
from widestep.plan.runplan import RunPlan
from widestep.train.arriving import Arriving
from widestep.train.setting import build_engine
from widestep.train.state import TrainState
from widestep.train.step import MovingStep, gradients_of
from widestep.workers.blocks import Block
from widestep.workers.engine import GradientEngine
from widestep.workers.placement import Placement
from widestep.workers.world import World

Make = Callable[..., Any]
OPTIMIZERS = get_args(OptimizerName)
BLEND = {"blend_centre": "1ep", "blend_period": "1ep"}


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let numbers be taken for ones that are still to come, as on a GPU."""
    monkeypatch.setattr(Arriving, "here", property(lambda self: False))


class OnDevice:
    """The same images of four workers at every step, two workers a block, on some device."""

    def __init__(self, device: str) -> None:
        self.images, self.labels = (
            torch.rand(16, 1, 8, 8, device=device),
            torch.ones(16, 1, dtype=torch.int64, device=device),
        )

    def at(self, step: int) -> Callable[[range], list[Block]]:
        return lambda workers: [Block(self.images, self.labels, workers)]

    def num_images(self, step: int) -> int:
        return 32

    def placement(self, step: int) -> Placement:
        return Placement(4, 2, 1)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adamw"])  # torch's own, which knows no `meta`
def test_nothing_is_read_in_a_step(small: Make, monkeypatch: pytest.MonkeyPatch, late: None, name: OptimizerName) -> None:
    """On torch's device `meta` no tensor has a value, so whoever asks for one fails."""
    recipe = small(optimizer=name, clip_norm=1.0, workers_per_forward=2, **BLEND)
    with torch.device("meta"):
        model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
    monkeypatch.setattr(model, "initialise", lambda *_: None)
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *_, **__: None)  # has no form for `meta`
    state, batches = TrainState(model, 0, RunPlan(recipe, 200)), OnDevice("meta")
    engine: Any = build_engine(model, recipe, World())
    for number in range(3):
        found = gradients_of([state], engine, batches, number)  # type: ignore[arg-type]
        moving = MovingStep([state], found, number, at_once=False)
        assert (moving.known, found.wishes) == (False, (False, False))
        state.tally.step += 1
    with pytest.raises((RuntimeError, NotImplementedError)):
        moving.records()


def test_numbers_are_read_after_the_next_gradients(small: Make, train_one: Make, late: None, tmp_path: Path) -> None:
    """And at once before an evaluation or a checkpoint; once a step, however often something is logged."""
    events: list[str] = []

    def noted(owner: Any, name: str, word: str, patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)

        def instead(*arguments: Any, **options: Any) -> Any:
            events.append(word)
            return original(*arguments, **options)

        patch.setattr(owner, name, instead)

    with pytest.MonkeyPatch.context() as patch:
        noted(GradientEngine, "gradients", "gradients", patch)
        noted(Arriving, "read", "read", patch)
        noted(TrainState, "apply", "apply", patch)
        train_one(tmp_path / "run", small(epochs="6st"), checkpoint_every="4st", log_every=2)
    first, later = ["gradients", "apply"], ["gradients", "read", "apply"]
    assert events == [*first, *later, *later, *later, "read", *first, *later, "read"]


STACK: list[dict[str, Any]] = [
    {"seed": 0, "optimizer": "lars-torch", "base_lr": 0.1},
    {"seed": 1, "base_lr": 1e4},
    {"seed": 2, "optimizer": "lamb", "base_lr": 1e30},
    {"seed": 3, "clip_norm": 0.7, "base_lr": 0.3},
]


def written(directory: Path) -> dict[str, Any]:
    """The records and weights of a run without the times in them; a run that diverged early has no best weights."""
    files = [*directory.glob("*.jsonl"), directory / "epochs.csv", *directory.glob("checkpoints/[bf]*.safetensors")]
    found: dict[str, Any] = {file.name: file.read_bytes() for file in files if file.name != "history.jsonl"}
    records = [json.loads(line) for line in found["metrics.jsonl"].splitlines()]
    return {**found, "metrics.jsonl": [{**record, "seconds": None} for record in records]}


@pytest.mark.parametrize("execution", [{}, {"log_every": 5, "digests": True}, {"checkpoint_every": "1st"}])
def test_runs_are_the_same_to_the_byte(
    small: Make, train_runs: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, execution: dict[str, Any]
) -> None:  # W7
    """Two of four runs of a stack diverge, at different steps."""
    recipes = [small(stack=4, tail="short", evaluate_every="4st", **fields) for fields in STACK]
    results = {}
    for way in ("now", "late"):
        runs = {tmp_path / way / str(number): recipe for number, recipe in enumerate(recipes)}
        results[way] = train_runs(runs, **execution)
        monkeypatch.setattr(Arriving, "here", property(lambda self: False))
    assert [result.status for result in results["now"]] == ["complete", "diverged", "diverged", "complete"]
    for number, (now, late) in enumerate(zip(results["now"], results["late"], strict=True)):
        assert (late.status, late.steps, late.reason) == (now.status, now.steps, now.reason)
        one, other = (tmp_path / way / str(number) for way in ("now", "late"))
        assert written(other) == written(one)


@pytest.mark.parametrize("factor", [float("nan"), 1e19], ids=["loss", "moments"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("number", [0, 2])
def test_a_step_is_taken_back(
    ready: Make, digits: Any, late: None, name: OptimizerName, number: int, factor: float
) -> None:  # W7, O6
    """Weights, statistics, the optimizer's memory and the tally, to the bit; the run could go on."""
    run, untouched = (ready(optimizer=name, base_lr=0.01, **BLEND) for _ in range(2))
    for step in range(number):
        run.step(step)
        untouched.step(step)
    before, run.source.damaged, run.source.factor = run.everything(), digits.step(number)[3], factor
    moving = MovingStep([run.state], gradients_of([run.state], run.engine, run.batches, number), number, at_once=False)
    assert run.everything() != before
    assert [record.taken for record in moving.records()] == [False]
    assert run.everything() == before
    run.source.factor = 1.0
    run.batches._ahead.clear()
    run.step(number)
    untouched.step(number)
    assert run.everything() == untouched.everything() != before


def test_adascale_waits_for_its_gain(ready: Make, late: None) -> None:  # L6
    run = ready(scaling="adascale")
    found = gradients_of([run.state], run.engine, run.batches, 0)
    moving = MovingStep([run.state], found, 0, at_once=False)
    assert moving.known
    (record,) = moving.records()
    assert record.applied.gain is not None
    assert run.state.optimizer.param_groups[0]["lr"] == record.applied.lr == pytest.approx(record.applied.gain * 0.1)


def test_several_processes_wait_before_anything_is_applied(ready: Make, digits: Any, late: None) -> None:
    run = ready()
    run.source.damaged, run.source.factor = digits.step(0)[0], float("nan")
    before = run.everything()
    moving = MovingStep([run.state], gradients_of([run.state], run.engine, run.batches, 0), 0, at_once=True)
    assert run.everything() == before
    assert not moving.records()[0].taken


@pytest.mark.parametrize("limit", [1e-30, 0.3, 0.7, 1.0, 6.5, 1e30])
def test_clipping_computes_the_same_factor_on_the_device(limit: float) -> None:  # W6
    norms = torch.logspace(-40, 40, 1001, dtype=torch.float64) * 1.1
    found = clip_factor_on_device(norms, limit)
    assert found.tolist() == [clip_factor(norm, limit) for norm in norms.tolist()]


def test_trust_ratios_come_over_with_the_step(ready: Make) -> None:  # L1, O2
    """The groups that have ratios, one after the other: read at once or sent for, the ledger says the same."""
    run = ready(optimizer="lars-tf", decay_exempt="batchnorm", trust_exempt="none", trust_coefficient=0.02)
    optimizer = run.state.optimizer
    groups = [(group["weight_decay"], weight) for group in optimizer.param_groups for weight in group["params"]]
    sizes = [weight.detach().double().norm().item() for _, weight in groups]
    record, expected = run.step(0), []
    for (decay, weight), size in zip(groups, sizes, strict=True):
        slope = weight.grad.double().norm().item()
        expected.append(0.02 * size / (slope + decay * size) if size and slope else 1.0)
    assert len(expected) == len(run.state.trained)
    assert record.ratios.read() == pytest.approx(expected, rel=1e-6)
    assert applied(optimizer, record.ratios.read()) == applied(optimizer)
    plain = ready()
    assert plain.step(0).ratios is None
    assert trust_ratios(plain.state.optimizer) is None
