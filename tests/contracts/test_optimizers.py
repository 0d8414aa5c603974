"""What every optimizer must do, whatever its formula (statements O3-O6); the formulas are in tests/optim."""

import copy
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from widestep.data.loading import Computed, Images
from widestep.data.source import open_source
from widestep.models.build import build_model
from widestep.models.stacked import Role, parameter_roles
from widestep.optim.build import applied, build_optimizer, set_rate, update
from widestep.plan.recipe import Exemption, OptimizerName, Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan
from widestep.train import checkpoint
from widestep.train.batches import Batches
from widestep.train.setting import build_engine
from widestep.train.state import Applied, TrainState
from widestep.train.step import StepRecord, take_step
from widestep.workers.world import World

NAMES: tuple[OptimizerName, ...] = get_args(OptimizerName)
LARS = tuple(name for name in NAMES if name.startswith("lars"))
TRUSTING = (*LARS, "lamb")
ROLES: Mapping[str, Role] = {
    "conv": "weight",
    "bn.weight": "batchnorm",
    "bn.bias": "batchnorm",
    "fc": "weight",
    "fc.bias": "bias",
}
SHAPES = {"conv": (8, 3, 3, 3), "bn.weight": (8,), "bn.bias": (8,), "fc": (10, 37), "fc.bias": (10,)}
EXEMPT: Mapping[Exemption, set[Role]] = {
    "none": set(),
    "batchnorm": {"batchnorm"},
    "batchnorm+bias": {"batchnorm", "bias"},
}


def normal(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class Training:
    """Parameters with their optimizer, stepped with given gradients."""

    def __init__(self, recipe: Recipe, start: Mapping[str, Tensor], roles: Mapping[str, Role] = ROLES) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in start.items()}
        self.optimizer = build_optimizer(recipe, self.weights, roles)

    def step(self, gradients: Mapping[str, Tensor], lr: float = 0.1, epoch: float = 0.0) -> None:
        for name, weight in self.weights.items():
            weight.grad = gradients[name].clone()
        set_rate(self.optimizer, lr, epoch)
        update(self.optimizer)

    def bytes(self) -> dict[str, bytes]:
        return {name: weight.numpy().tobytes() for name, weight in self.weights.items()}


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("exempt", EXEMPT)
def test_steps_equal_torchs_own_optimizer_bit_for_bit(name: OptimizerName, momentum: float, exempt: Exemption) -> None:  # O5
    recipe = Recipe(optimizer=name, momentum=momentum, beta1=0.8, beta2=0.95, weight_decay=0.02, decay_exempt=exempt)
    run = Training(recipe, normal(0))
    theirs = normal(0)
    exempt_roles = EXEMPT[exempt]
    groups = [
        {"params": [theirs[key] for key in SHAPES if ROLES[key] not in exempt_roles], "weight_decay": 0.02},
        {"params": [theirs[key] for key in SHAPES if ROLES[key] in exempt_roles], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.95), eps=1e-8, fused=True)
    else:
        nesterov = name == "nesterov" and momentum > 0
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=nesterov, fused=True)
    for number in range(20):
        gradients, lr = normal(100 + number), 0.03 * (number + 1)
        run.step(gradients, lr)
        for key, weight in theirs.items():
            weight.grad = gradients[key].clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        assert run.bytes() == {key: weight.numpy().tobytes() for key, weight in theirs.items()}


def test_lamb_without_ratios_is_torchs_adamw() -> None:  # O5
    recipe = Recipe(optimizer="lamb", weight_decay=0.02, trust_exempt="batchnorm+bias")
    roles: dict[str, Role] = dict.fromkeys(SHAPES, "bias")
    run, theirs = Training(recipe, normal(0), roles), normal(0)
    optimizer = torch.optim.AdamW(theirs.values(), lr=0.01, weight_decay=0.02)
    for number in range(20):
        run.step(normal(100 + number), 0.01)
        for key, gradient in normal(100 + number).items():
            theirs[key].grad = gradient
        optimizer.step()
    for key, weight in theirs.items():
        torch.testing.assert_close(run.weights[key], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_moves_without_gradient_and_decay(name: OptimizerName) -> None:
    start = normal(0) | {"bn.weight": torch.zeros(8)}
    run = Training(Recipe(optimizer=name, weight_decay=0.0), start)
    before = run.bytes()
    for number in range(4):
        run.step({key: torch.zeros(shape) for key, shape in SHAPES.items()}, lr=10.0, epoch=4.0 * number)
        assert run.bytes() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exempt", EXEMPT)
def test_decay_goes_to_whom_the_recipe_says(name: OptimizerName, exempt: Exemption) -> None:  # O3
    """Without a gradient the step of a decayed tensor is lr * wd * w, but of LAMB, whose ratio makes it lr * w."""
    recipe = Recipe(optimizer=name, weight_decay=0.1, decay_exempt=exempt, trust_exempt="batchnorm", beta2=0.0)
    run = Training(recipe, normal(0))
    run.step({key: torch.zeros(shape) for key, shape in SHAPES.items()}, lr=0.5, epoch=90.0)
    for key, start in normal(0).items():
        if ROLES[key] in EXEMPT[exempt]:
            assert run.weights[key].equal(start)
        else:
            factor = 0.5 if name == "lamb" and ROLES[key] != "batchnorm" else 0.95 if name != "nesterov" else 0.905
            torch.testing.assert_close(run.weights[key], factor * start)


@pytest.mark.parametrize("name", TRUSTING)
@pytest.mark.parametrize("exempt", EXEMPT)
def test_ratios_go_to_whom_the_recipe_says(name: OptimizerName, exempt: Exemption) -> None:  # O3
    """A first step with a ratio is lr (and the coefficient) times as long as the tensor; one without is not."""
    recipe = Recipe(optimizer=name, weight_decay=0.0, decay_exempt="none", trust_exempt=exempt, trust_coefficient=0.02)
    gradients, run = normal(1, scale=3.0), Training(recipe, normal(0))
    run.step(gradients, lr=0.5)
    for key, start in normal(0).items():
        moved = (run.weights[key] - start).norm()
        if ROLES[key] in EXEMPT[exempt]:
            expected = 0.5 * (gradients[key].norm() if name != "lamb" else math.sqrt(start.numel()))
        else:
            expected = 0.5 * start.norm() * (0.02 if name != "lamb" else 1.0)
        assert float(moved) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", TRUSTING)
@pytest.mark.parametrize("power", [-12, 9])
def test_the_size_of_the_gradient_does_not_matter(name: OptimizerName, power: int) -> None:
    """By a power of two nothing is rounded: the same bytes after any number of steps."""
    recipe = Recipe(optimizer=name, weight_decay=0.0, epsilon=1e-300, trust_exempt="none")
    run, scaled = Training(recipe, normal(0)), Training(recipe, normal(0))
    for number in range(5):
        run.step(normal(10 + number), lr=0.3)
        scaled.step(normal(10 + number, scale=2.0**power), lr=0.3)
    assert run.bytes() == scaled.bytes()


@pytest.mark.parametrize("name", TRUSTING)
def test_steps_grow_with_the_weights(name: OptimizerName) -> None:
    recipe = Recipe(optimizer=name, weight_decay=0.0, trust_exempt="none")
    run, doubled = Training(recipe, normal(0)), Training(recipe, normal(0, scale=2.0))
    run.step(normal(1), lr=0.3)
    doubled.step(normal(1), lr=0.3)
    assert all(doubled.weights[key].equal(2 * weight) for key, weight in run.weights.items())


@pytest.mark.parametrize("name", TRUSTING)
@pytest.mark.parametrize("exempt", EXEMPT)
def test_a_tensor_of_zeros_takes_a_plain_step(name: OptimizerName, exempt: Exemption) -> None:  # O4
    """As zero-gamma starts it: ratio 1 and the full rate, not a division by zero and not a standstill."""
    recipe = Recipe(optimizer=name, weight_decay=0.1, decay_exempt="none", trust_exempt=exempt)
    run = Training(recipe, normal(0) | {"bn.weight": torch.zeros(8)})
    gradients = normal(1)
    run.step(gradients, lr=0.25)
    expected = -0.25 * (gradients["bn.weight"] if name != "lamb" else gradients["bn.weight"].sign())
    torch.testing.assert_close(run.weights["bn.weight"], expected, rtol=1e-5, atol=0)
    for number in range(20):
        run.step(normal(2 + number), lr=0.25)
    assert all(weight.isfinite().all() and weight.abs().max() < 100 for weight in run.weights.values())


@pytest.mark.parametrize("name", LARS)
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-25, 1e30])
def test_gradients_of_any_size_make_steps_of_the_same_length(name: OptimizerName, size: float) -> None:  # O4
    """Squares and ratios that float32 cannot hold do no harm: one value far below all others, and zeros beside it."""
    recipe = Recipe(optimizer=name, weight_decay=0.0, trust_exempt="none", trust_coefficient=0.5)
    run = Training(recipe, normal(0))
    gradients = {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    gradients["fc"][3, 5] = size
    run.step(gradients, lr=0.5)
    moved = run.weights["fc"] - normal(0)["fc"]
    assert float(moved[3, 5]) == pytest.approx(-0.25 * float(normal(0)["fc"].norm()), rel=1e-5)
    assert int(moved.count_nonzero()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_parameters_does_not_matter(name: OptimizerName) -> None:
    recipe = Recipe(optimizer=name, decay_exempt="batchnorm", trust_exempt="batchnorm+bias")
    run = Training(recipe, normal(0))
    turned = Training(recipe, dict(reversed(normal(0).items())))
    for number in range(3):
        for training in (run, turned):
            training.step(normal(10 + number), lr=0.1, epoch=9.0 + number)
    assert run.bytes() == turned.bytes()
    assert [group["name"] for group in applied(run.optimizer)] == [group["name"] for group in applied(turned.optimizer)]


@pytest.mark.parametrize("name", NAMES)
def test_runs_of_a_stack_do_not_see_each_other(name: OptimizerName) -> None:
    """Each of three runs has its own optimizer on its own part of the tensors: the bytes of the same steps taken alone."""

    def built(slots: int) -> Any:
        return build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=slots)

    stacked, roles = built(3), parameter_roles(built(1))
    recipes_of = [Recipe(optimizer=name, weight_decay=0.01 * slot, seed=slot, stack=3) for slot in range(3)]
    generator = torch.Generator().manual_seed(0)
    starts = []
    for slot in range(3):
        for view in stacked.slot_parameters(slot).values():
            view.copy_(torch.randn(view.shape, generator=generator))
        starts.append({key: view.clone() for key, view in stacked.slot_parameters(slot).items()})
    alone = [Training(recipe, start, roles) for recipe, start in zip(recipes_of, starts, strict=True)]
    views = [stacked.slot_parameters(slot) for slot in range(3)]
    optimizers = [build_optimizer(recipe, view, roles) for recipe, view in zip(recipes_of, views, strict=True)]
    for number in range(3):
        for slot in (2, 0, 1):
            gradients = {key: torch.randn(view.shape, generator=generator) for key, view in views[slot].items()}
            alone[slot].step(gradients, lr=0.1 + slot, epoch=5.0 * number)
            for key, view in views[slot].items():
                view.grad = gradients[key]
            set_rate(optimizers[slot], 0.1 + slot, 5.0 * number)
            update(optimizers[slot])
    for slot in range(3):
        assert all(view.equal(alone[slot].weights[key]) for key, view in views[slot].items())


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_deterministic_by_torchs_own_check(name: OptimizerName, quiet_torch: None) -> None:
    torch.set_deterministic_debug_mode("error")
    runs = [Training(Recipe(optimizer=name), normal(0)) for _ in range(2)]
    for number in range(3):
        for run in runs:
            run.step(normal(10 + number), lr=0.1, epoch=5.0 * number)
    assert runs[0].bytes() == runs[1].bytes()


def test_no_optimizer_imports_torchs_compiler(program: Any) -> None:
    """Which takes every process that starts another 3 s."""
    started = """
import sys
from typing import get_args
import torch
from widestep.optim.build import applied, build_optimizer, set_rate, update
from widestep.plan.recipe import OptimizerName, Recipe
for name in get_args(OptimizerName):
    weight = torch.ones(3)
    weight.grad = torch.ones(3)
    optimizer = build_optimizer(Recipe(optimizer=name), {"w": weight}, {"w": "weight"})
    set_rate(optimizer, 0.1, 0.0)
    update(optimizer)
    assert weight.lt(1).all() and applied(optimizer), name
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))])
"""
    found = subprocess.run(
        [sys.executable, "-c", started], env=program.environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


class Spoilt:
    """The digits, of which one turns into NaN while `spoilt` is true."""

    def __init__(self) -> None:
        self._source = open_source("digits", augment="none", train_images=200)
        self.spoilt = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def training_images(self, ids: Any, keys: Any) -> Images:
        def images() -> Tensor:
            found = self._source.training_images(ids, keys).result()
            if self.spoilt:
                found[0] = float("nan")
            return found

        return Computed(images)


class Ready:
    """A run on the digits with all that a step of training needs; 25 steps an epoch."""

    def __init__(self, name: OptimizerName) -> None:
        fields = {"grid": "1x2x4", "train_images": 200, "base_lr": 0.01, "weight_decay": 0.01, "decay_exempt": "batchnorm"}
        blend = {"blend_centre": "0.1ep", "blend_period": "1ep"}
        recipe = changed(Recipe(), {"optimizer": name, **fields, **blend})
        plan = RunPlan(recipe, 200)
        model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
        self.state, self.source = TrainState(model, 0, plan), Spoilt()
        self.engine = build_engine(model, recipe, World())
        self.batches = Batches(self.source, [plan], torch.device("cpu"))

    def step(self) -> StepRecord:
        (record,) = take_step([self.state], self.engine, self.batches, self.state.tally.step)
        return record

    def held(self) -> dict[str, Any]:
        tensors = {**self.state.weights(), **self.state.optimizer_tensors(), "statistics": self.state.running}
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()} | copy.deepcopy(vars(self.state.tally))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_is_not_taken_changes_nothing(name: OptimizerName, quiet_torch: None) -> None:  # O6
    """No byte of weights, statistics, optimizer and tally; and the run goes on as if it had never been asked."""
    run, other = Ready(name), Ready(name)
    for number in range(5):
        before = run.held()
        run.source.spoilt = True
        record = run.step()
        assert not record.taken
        assert not math.isfinite(record.statistics.gradient_norm)
        assert run.held() == before
        run.source.spoilt = False
        assert run.step().taken
        assert other.step().taken
        assert run.state.tally.step == number + 1
        assert run.held() == other.held() != before
        assert applied(run.state.optimizer) == applied(other.state.optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_run_goes_on_to_the_same_bytes(name: OptimizerName, tmp_path: Path) -> None:
    """Through a checkpoint on disk, after every number of steps."""
    for first in range(4):
        run, other = Ready(name).state, Ready(name).state
        gradients = torch.randn(6, len(run.gradient), generator=torch.Generator().manual_seed(first))
        for number, gradient in enumerate(gradients):
            if number == first:
                checkpoint.write(tmp_path / "state", {**run.weights(), **run.optimizer_tensors()}, {})
                saved, _ = checkpoint.read(tmp_path / "state")
                for key, weight in other.weights().items():
                    weight.copy_(saved.pop(key))
                other.restore_optimizer(saved)
                other.tally.step = run.tally.step
            for state in (run, other)[: 1 + (number >= first)]:
                state.apply(gradient, Applied(lr=0.02 * (number + 1)))
                state.tally.step += 1
        for mine, theirs in ((run.weights(), other.weights()), (run.optimizer_tensors(), other.optimizer_tensors())):
            assert mine.keys() == theirs.keys()
            assert all(tensor.numpy().tobytes() == theirs[key].numpy().tobytes() for key, tensor in mine.items())
        assert applied(run.optimizer) == applied(other.optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_remembered_is_float32_and_belongs_to_a_parameter(name: OptimizerName) -> None:
    """So a checkpoint holds it, and other processes can be given it."""
    run = Ready(name).state
    assert run.optimizer_tensors() == {}
    run.apply(torch.ones_like(run.gradient), Applied(lr=0.1))
    found = run.optimizer_tensors()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    keys = {
        "adamw": {"step", "exp_avg", "exp_avg_sq"},
        "lamb": {"step", "exp_avg", "exp_avg_sq"},
        "rmsprop-sgd": {"momentum_buffer", "square_avg"},
    }
    assert {label.rpartition(":")[2] for label in found} == keys.get(name, {"momentum_buffer"})
    shared = [tensor.untyped_storage().data_ptr() for tensor in found.values()]
    assert len(set(shared)) == len(shared)  # safetensors refuses tensors that share memory
