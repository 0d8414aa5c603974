"""Compiled training passes: the numbers of eager ones to rounding, the same bytes every time, or words why not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from widestep.errors import EnvironmentFault, UsageError
from widestep.models.build import build_model
from widestep.models.compiled import CompiledPass
from widestep.models.global_draws import global_generator
from widestep.models.stacked import StackedModel

SMALL = """
from torch import nn
def Small(num_classes, image_shape):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(144, num_classes), nn.RReLU())
"""


@pytest.fixture
def small(tmp_path: Path) -> StackedModel:
    """A user's own network, quick to compile, with dropout of ours and random numbers of its own."""
    (tmp_path / "small.py").write_text(SMALL)
    model = build_model(f"{tmp_path / 'small.py'}:Small", num_classes=3, image_shape=(1, 8, 8))
    model.initialise(0, 4)
    return model.train()


def passed(model: StackedModel, num_images: int, num_groups: int = 1) -> list[Tensor]:
    """Logits, gradients and what batch normalisation measured, of a block that is a function of its size."""
    images = torch.randn(num_images, 1, 8, 8, generator=torch.Generator().manual_seed(num_images))
    keys = np.arange(num_groups, dtype=np.uint64).reshape(num_groups, 1)
    model.context.begin(num_groups, lambda layer: keys + np.uint64(100 * layer + num_images))
    with global_generator(num_images, images.device):
        logits = model(images)
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    return [logits.detach(), *gradients, *(moment for found in model.context.batch_statistics() for moment in found[:2])]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def near(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(x.shape == y.shape and float((x - y).norm() / y.norm()) < 1e-5 for x, y in zip(a, b, strict=True))


@pytest.fixture
def deterministic() -> Any:
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(mode)


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
def test_a_compiled_pass_is_near_the_eager_one_and_always_the_same(small: StackedModel, deterministic: None) -> None:
    eager = {size: passed(small, size, groups) for size, groups in ((8, 2), (6, 2), (6, 1))}
    assert not near(eager[6], passed(small, 6, 2))  # batch normalisation tells one group from two
    small.compiled = CompiledPass(small, "default", num_threads=1, reproducible=True)
    first = passed(small, 8, 2)
    assert near(first, eager[8])
    assert near(passed(small, 6, 1), eager[6])  # the shorter block of a last step
    assert same(passed(small, 8, 2), first)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.mul_(0.5)
    changed = passed(small, 8, 2)
    small.compiled = None
    assert near(changed, passed(small, 8, 2))  # it reads the weights of today


def test_only_training_passes_are_compiled(small: StackedModel) -> None:
    given: list[Tensor] = []

    def stand_in(images: Tensor) -> Tensor:
        given.append(images)
        return small.compute(images)

    small.compiled = stand_in
    passed(small, 4)
    assert len(given) == 1
    with torch.no_grad():
        small.context.begin(1, lambda layer: np.zeros((1, 1), dtype=np.uint64))
        small(torch.zeros(4, 1, 8, 8))
    small.eval()
    small(torch.zeros(4, 1, 8, 8))
    assert len(given) == 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What torch.compile was last called with; it compiles nothing."""
    held: dict[str, Any] = {}

    def compile_nothing(function: Callable[..., Any], **given: Any) -> Callable[..., Any]:
        held.update(given, marks=0)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch.compiler, "disable", lambda function: function)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: held.update(marks=held["marks"] + 1))
    return held


@pytest.mark.parametrize(
    ("level", "graphs", "tuned"), [("default", 0, 0), ("reduce-overhead", 1, 0), ("max-autotune", 1, 1)]
)
@pytest.mark.parametrize("reproducible", [True, False])
def test_what_torch_is_asked_for(
    small: StackedModel, asked: dict[str, Any], level: str, graphs: int, tuned: int, reproducible: bool
) -> None:
    small.compiled = CompiledPass(small, level, num_threads=3, reproducible=reproducible)
    passed(small, 4)
    passed(small, 4)
    options = asked["options"]
    assert asked["dynamic"] is False
    assert "mode" not in asked
    assert (options["fallback_random"], options["cpp.threads"]) == (True, 3)
    assert options["deterministic"] == reproducible
    assert (options.get("triton.cudagraphs", False), options.get("max_autotune", False)) == (bool(graphs), bool(tuned))
    assert asked["marks"] == 2 * graphs  # every pass may overwrite what the one before returned
    assert torch._dynamo.config.recompile_limit >= 1000  # beyond it torch would go on without compiling


def test_a_compiler_that_fails_is_a_fault_of_the_machine(small: StackedModel, asked: dict[str, Any]) -> None:
    import torch._dynamo

    compiled = CompiledPass(small, "default", num_threads=1, reproducible=True)

    def fail(error: Exception) -> None:
        def failing(images: Tensor) -> Tensor:
            raise error

        compiled._compute = failing

    small.compiled = compiled
    fail(torch._dynamo.exc.InternalTorchDynamoError("\n  NoCompiler: no g++:\n  and much more"))
    with pytest.raises(EnvironmentFault) as caught:
        passed(small, 4)
    assert str(caught.value) == (
        "compile = default needs a compiler that can work for this model: for processors a C++ compiler, for GPUs Triton. "
        "torch reported InternalTorchDynamoError: NoCompiler: no g++. Install what is missing, or set compile to none."
    )
    fail(UsageError("What is wrong must be said."))
    with pytest.raises(UsageError, match=r"^What is wrong must be said\."):
        passed(small, 4)


def test_without_compile_nobody_waits_for_the_compiler() -> None:
    program = (
        "import sys, torch\n"
        "from widestep.models.build import build_model\n"
        "from widestep.plan.recipe import Recipe\n"
        "from widestep.train.setting import build_engine, model_of\n"
        "from widestep.workers.world import World\n"
        "for name in ('none', 'default'):\n"
        "    recipe = Recipe(compile=name)\n"
        "    model = model_of(recipe, 10, (1, 8, 8))\n"
        "    build_engine(model, recipe, World())\n"
        "    model.context.begin(1)\n"
        "    with torch.no_grad():\n"
        "        model(torch.zeros(2, 1, 8, 8))\n"
        "assert model.compiled is not None\n"
        "assert not {'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
