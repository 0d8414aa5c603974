"""Users' own models (`FILE.py:NAME`) from the first step to the last: against torch alone, cut off, changed, refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from widestep.errors import EnvironmentFault, UsageError
from widestep.models.build import build_model
from widestep.plan.randomness import Stream
from widestep.records.run import open_existing
from widestep.train.assess import assess
from widestep.workers.engine import GradientEngine

Make = Callable[..., Any]
HEAD = """
import torch
import torch.nn.functional as F
from torch import nn
"""
BODY = """
class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.bn = nn.BatchNorm2d(8, momentum=0.77)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.drop = nn.Dropout(DROPOUT)
        self.frozen = nn.Linear(8 * 16, 16)
        self.frozen.requires_grad_(False)
        self.last = nn.Linear(16, num_classes)

    def forward(self, images):
        x = F.relu(self.bn(self.conv(images)))
        x = self.drop(F.relu(self.grouped(x)).flatten(1))
        return self.last(F.relu(self.frozen(NOISE)))
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """Write the file of a model and return the recipe's name for it."""

    def write(body: str = BODY, dropout: float = 0.0, noise: str = "x", name: str = "net") -> str:
        text = HEAD + body.replace("DROPOUT", str(dropout)).replace("NOISE", noise)
        (tmp_path / f"{name}.py").write_text(text)
        return f"{tmp_path / name}.py:Net"

    return write


def torch_alone(name: str, digits: Any, recipe: Any, num_steps: int) -> tuple[nn.Module, list[float]]:
    """Data-parallel training by hand: a copy of the user's module for every worker, torch's layers, torch's SGD.

    Returns the module with the mean of the copies' running statistics, and the losses.
    """
    made = build_model(name, num_classes=10, image_shape=(1, 8, 8))
    made.initialise(0, Stream(recipe.seed, "init").key())
    space: dict[str, Any] = {}
    exec(Path(name.rpartition(":")[0]).read_text(), space)
    theirs = space["Net"](10, (1, 8, 8))
    theirs.load_state_dict({**made.slot_parameters(0), **made.slot_statistics(0)}, strict=False)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = recipe.batchnorm_momentum
    num_workers = recipe.grid.num_workers
    copies = [copy.deepcopy(theirs).double() for _ in range(num_workers)]
    trained = [[p for p in module.parameters() if p.requires_grad] for module in copies]
    optimizers = [
        torch.optim.SGD(own, lr=recipe.base_lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        for own in trained
    ]
    losses = []
    for number in range(num_steps):
        ids = digits.step(number)
        found = [
            F.cross_entropy(module(digits.images(ids[worker::num_workers])), digits.labels(ids[worker::num_workers]))
            for worker, module in enumerate(copies)
        ]
        gradients = [torch.autograd.grad(loss, own) for loss, own in zip(found, trained, strict=True)]
        losses.append(sum(loss.item() for loss in found) / num_workers)
        for own, optimizer in zip(trained, optimizers, strict=True):
            for place, parameter in enumerate(own):
                parameter.grad = torch.stack([gradient[place] for gradient in gradients]).mean(0)
            optimizer.step()
    for buffers in zip(*(module.named_buffers() for module in copies), strict=True):
        if buffers[0][0].endswith(("running_mean", "running_var")):
            buffers[0][1].copy_(torch.stack([buffer for _, buffer in buffers]).mean(0))
    return copies[0], losses


@pytest.mark.parametrize("grid", ["1x4x8", "1x1x32"])
def test_against_torch_alone(
    small: Make, train_one: Make, lines: Make, digits: Any, written: Make, tmp_path: Path, grid: str
) -> None:  # W1, B2, B3, B4
    """Losses, weights and running statistics of six steps: a module for every worker, in double precision."""
    recipe = small(model=written(), grid=grid, epochs="6st", batchnorm_recompute="never", base_lr=0.05, weight_decay=0.01)
    train_one(tmp_path / "run", recipe)
    module, losses = torch_alone(recipe.model, digits, recipe, 6)
    assert [record["loss"] for record in lines(tmp_path / "run/metrics.jsonl")] == pytest.approx(losses, rel=1e-5)
    weights = load_file(tmp_path / "run/checkpoints/final.safetensors")
    expected = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name].double(), tensor, rtol=1e-4, atol=2e-6, msg=name)


OTHERWISE = """
        self.last.weight = nn.Parameter(self.last.weight.data.t().contiguous().t())
        self.bn.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        self.to(memory_format=torch.channels_last)

    def forward"""


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw", "lars-torch"])
def test_weights_may_be_laid_out_in_any_order(
    small: Make, train_one: Make, written: Make, tmp_path: Path, optimizer: str
) -> None:
    """torch's fused optimizers on the processor take weight and gradient for laid out alike, and do not look."""
    usual = BODY.replace("\n    def forward", OTHERWISE.splitlines()[2] + "\n\n    def forward")
    for name, body in (("usual", usual), ("otherwise", BODY.replace("\n    def forward", OTHERWISE))):
        recipe = small(model=written(body, name=name), optimizer=optimizer, base_lr=0.01, epochs="6st")
        train_one(tmp_path / name, recipe)
    one, other = (load_file(tmp_path / name / "checkpoints/final.safetensors") for name in ("usual", "otherwise"))
    made = build_model(str(tmp_path / "otherwise.py:Net"), num_classes=10, image_shape=(1, 8, 8))
    made.initialise(0, Stream(0, "init").key())
    assert not one["conv.weight"].equal(made.slot_parameters(0)["conv.weight"])
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_frozen_parameters_stay(small: Make, train_one: Make, lines: Make, written: Make, tmp_path: Path) -> None:
    """They are part of the weights, to the bit as they were made, and of no gradient and no optimizer."""
    recipe = small(model=written(), epochs="5st", seed=3, weight_decay=0.1)
    train_one(tmp_path / "run", recipe, digests=True, checkpoint_every="4st")
    made = build_model(recipe.model, num_classes=10, image_shape=(1, 8, 8))
    made.initialise(0, Stream(3, "init").key())
    start, end = made.slot_parameters(0), load_file(tmp_path / "run/checkpoints/final.safetensors")
    moved = {name for name in start if not end[name].equal(start[name])}
    assert moved == set(start) - {"frozen.weight", "frozen.bias"}
    entry = lines(tmp_path / "run/digests.jsonl")[-1]
    assert set(entry["gradients"]) == moved
    assert set(entry["weights"]) == set(start)
    assert sum(group["num_tensors"] for group in lines(tmp_path / "run/ledger.jsonl")[0]["groups"]) == len(moved)
    saved = load_file(tmp_path / "run/checkpoints/step-0000004.safetensors")
    assert not any(name.startswith("optimizer/frozen") for name in saved)


RANDOM = {"dropout": 0.3, "noise": "x + 0.1 * torch.randn_like(x) if self.training else x"}


def test_a_run_cut_off_goes_on(
    small: Make, train_one: Make, content: Make, cuts: Any, written: Make, tmp_path: Path
) -> None:  # R1, D4
    """With dropout, and with noise from torch's global generator in the user's own code."""
    recipe = small(model=written(**RANDOM), tail="short", augment="shift-flip")
    train_one(tmp_path / "whole", recipe)
    for nth in (7, 5):
        cuts.at(GradientEngine, "gradients", nth)
        with pytest.raises(cuts.Cut):
            train_one(tmp_path / "run", recipe, checkpoint_every="3st")
        cuts.mend()
        torch.rand(99)  # others draw from the global generator, too
    assert train_one(tmp_path / "run", recipe).interruptions == 2
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_evaluating_changes_no_later_byte(small: Make, train_one: Make, written: Make, tmp_path: Path) -> None:  # B5
    """Statistics computed anew pass through the user's random layers; the global generator is as it was."""
    name = written(**RANDOM)
    state = torch.get_rng_state()
    seldom = train_one(tmp_path / "seldom", small(model=name, evaluate_every="2ep"))
    often = train_one(tmp_path / "often", small(model=name, evaluate_every="1st"))
    assert seldom.weights_sha256 == often.weights_sha256
    assert (seldom.val_correct, seldom.val_loss) == (often.val_correct, often.val_loss)
    assert torch.get_rng_state().equal(state)


def test_a_changed_source_is_refused(
    small: Make, train_one: Make, content: Make, cuts: Any, written: Make, tmp_path: Path
) -> None:  # R3
    """Whatever changed, a comment even; with the old file in its place the run goes on."""
    recipe = small(model=written(), epochs="1")
    train_one(tmp_path / "whole", recipe)
    cuts.at(GradientEngine, "gradients", 4)
    with pytest.raises(cuts.Cut):
        train_one(tmp_path / "run", recipe, checkpoint_every="2st")
    cuts.mend()
    saved = (tmp_path / "run/checkpoints/step-0000002.safetensors").read_bytes()
    written(BODY + "\n# a thought\n")
    with pytest.raises(UsageError, match=r"The source of .*net\.py:Net has changed since; restore it, or use --fresh"):
        train_one(tmp_path / "run", recipe)
    assert (tmp_path / "run/STATUS").read_text() == "failed\n"
    assert (tmp_path / "run/checkpoints/step-0000002.safetensors").read_bytes() == saved
    written()
    assert train_one(tmp_path / "run", recipe).status == "complete"
    assert content(tmp_path / "run") == content(tmp_path / "whole")


UNREPEATED = """
NUMBER_OF_CALLS = [0]

class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)
        NUMBER_OF_CALLS[0] += 1
        nn.init.constant_(self.fc.bias, 0.001 * NUMBER_OF_CALLS[0])

    def forward(self, images):
        return self.fc(images.flatten(1))
"""


def test_a_model_that_is_not_reproducible_is_noted(
    small: Make, train_one: Make, listening: Any, written: Make, tmp_path: Path
) -> None:
    name = written(UNREPEATED, name="unrepeated")
    assert train_one(tmp_path / "run", small(model=name, epochs="2st"), listening).status == "complete"
    note = listening.notes[0]
    assert note.startswith(f"the model {name} is not reproducible: ")
    assert "fc.bias differed" in note
    assert (tmp_path / "run/log.txt").read_text().count("is not reproducible") == 1
    listening.notes.clear()
    train_one(tmp_path / "sound", small(model=written(), epochs="2st", batchnorm_recompute="never"), listening)
    assert not [note for note in listening.notes if "reproducible" in note]


NO_FORM = """
class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images):
        x = images.flatten(1).clone()
        x.put_(torch.tensor([0]), torch.tensor([1.0]))
        return self.fc(x)
"""


def test_an_operation_without_a_deterministic_form_is_refused_before_anything_is_written(
    small: Make, train_one: Make, written: Make, tmp_path: Path
) -> None:
    name = written(NO_FORM, name="no_form")
    with pytest.raises(EnvironmentFault, match=r"have no such form: put_\. Use other .* or mode = fast"):
        train_one(tmp_path / "run", small(model=name, epochs="2st"))
    assert not (tmp_path / "run").exists()
    assert train_one(tmp_path / "fast", small(model=name, epochs="2st", mode="fast")).status == "complete"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("return self.last(F.relu(self.frozen(NOISE)))", "return x", r"must return logits of shape \(\d+, 10\)"),
        ("groups=4", "groups=3", r"must be built without an error.*groups.*net\.py"),
        ("self.conv(images)", "self.conv(images + images.mean(0))", r"must not influence another's logits"),
    ],
    ids=["shape", "error", "mixing workers"],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    small: Make, train_one: Make, written: Make, tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in BODY
    with pytest.raises(UsageError, match=said):
        train_one(tmp_path / "run", small(model=written(BODY.replace(old, new)), epochs="1st"))
    assert not (tmp_path / "run").exists()


WITHOUT_NORM = """
class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images):
        return self.fc(images.flatten(1))
"""


@pytest.mark.parametrize("per_forward", [1, 4])
def test_a_model_without_batch_normalisation(
    small: Make, train_one: Make, lines: Make, listening: Any, digits: Any, written: Make, tmp_path: Path, per_forward: int
) -> None:
    """A linear classifier against torch alone; no statistics are computed or compared, which is said."""
    recipe = small(model=written(WITHOUT_NORM, name="linear"), epochs="6st", workers_per_forward=per_forward, base_lr=0.01)
    result = train_one(tmp_path / "run", recipe, listening, compare_batchnorm=True)
    module, losses = torch_alone(recipe.model, digits, recipe, 6)
    assert [record["loss"] for record in lines(tmp_path / "run/metrics.jsonl")] == pytest.approx(losses, rel=1e-5)
    ids = digits.validation(300)
    assert result.val_correct == int((module(digits.images(ids)).argmax(1) == digits.labels(ids)).sum())
    assert listening.notes == ["the model has no batch normalisation, so there are no policies to compare"]
    assert not (tmp_path / "run/batchnorm.json").exists()


SKIPPING = """
class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, num_classes)

    def forward(self, images):
        x = self.a(images.flatten(1)).relu()
        if not self.training or torch.rand(()) < 0.5:
            x = x + self.b(x).relu()
        return self.fc(x)
"""


def test_layers_may_be_left_out_at_random(small: Make, train_one: Make, lines: Make, written: Make, tmp_path: Path) -> None:
    """Stochastic depth: the blocks that left a layer out add nothing to its gradient."""
    name = written(SKIPPING, name="skipping")
    recipe = small(model=name, epochs="8st", workers_per_forward=1, base_lr=0.01)
    result = train_one(tmp_path / "run", recipe, digests=True)
    assert result.status == "complete"
    seen = [record["gradients"]["b.weight"] for record in lines(tmp_path / "run/digests.jsonl")]
    assert len(set(seen)) > 4


LATE = """
class Late(torch.autograd.Function):
    num_calls = 0

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        Late.num_calls += 1
        if Late.num_calls > 30:
            raise ValueError("bad backward")
        return gradient

class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images):
        return self.fc(Late.apply(images.flatten(1) + self.fc.weight.sum() * 0))
"""


def test_an_error_of_the_users_backward_pass_is_a_sentence(
    small: Make, train_one: Make, written: Make, tmp_path: Path
) -> None:
    name = written(LATE, name="late")
    with pytest.raises(UsageError, match=r"must be differentiated without an error; it raised ValueError: bad backward"):
        train_one(tmp_path / "run", small(model=name, epochs="60st", workers_per_forward=1))


def test_weights_are_not_judged_in_a_changed_model(small: Make, train_one: Make, written: Make, tmp_path: Path) -> None:
    name = written(SKIPPING, name="changing")
    train_one(tmp_path / "run", small(model=name, epochs="2st"))
    run = open_existing(tmp_path / "run")
    assess(run, run.checkpoints / "final.safetensors")
    written(SKIPPING.replace("relu", "tanh"), name="changing")
    with pytest.raises(UsageError, match=r"The source of .*changing\.py:Net has changed since; restore it"):
        assess(run, run.checkpoints / "final.safetensors")
