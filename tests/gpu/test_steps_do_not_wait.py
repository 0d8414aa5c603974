"""On a GPU a step is given to the device and the host goes on: torch raises an error where a step would wait for it."""

import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch

from widestep.data.augment import Augmentation, whole_draws
from widestep.data.batched import normalised
from widestep.data.resident import ResidentImages
from widestep.models.build import build_model
from widestep.plan.recipe import OptimizerName, Recipe
from widestep.plan.recipes import changed
from widestep.plan.runplan import RunPlan
from widestep.train.arriving import Arriving
from widestep.train.setting import build_engine, fix_arithmetic
from widestep.train.state import TrainState, weights_sha256
from widestep.train.step import MovingStep, StepRecord, gradients_of
from widestep.workers.blocks import Block
from widestep.workers.placement import Placement
from widestep.workers.world import World

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use: only there is there a wait"),
    pytest.mark.filterwarnings("default"),  # of the torch that the GPU's machine has: another than the one we develop with
    pytest.mark.usefixtures("quiet_torch"),
]

OPTIMIZERS = get_args(OptimizerName)
NUM_SLOTS = 2


class OnDevice:
    """Other images at every step, on the device: four workers of four, two a block; `spoilt` steps have a NaN for slot 1."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(8, 8, NUM_SLOTS, 8, 8, generator=generator).cuda()
        self.labels = torch.randint(0, 10, (8, 8, NUM_SLOTS), generator=generator).cuda()
        self.spoilt = self.images.clone()
        self.spoilt[:, 3, 1, 2, 2] = float("nan")
        self.num_spoilt = 100

    def at(self, step: int) -> Callable[[range], list[Block]]:
        images = self.spoilt if step == self.num_spoilt else self.images
        return lambda workers: [Block(images[(2 * step + workers.start // 2) % 8], self.labels[step % 8], workers)]

    def num_images(self, step: int) -> int:
        return 16

    def placement(self, step: int) -> Placement:
        return Placement(4, 2, 1)


class Ready:
    """Two runs side by side on the GPU."""

    def __init__(self, name: OptimizerName) -> None:
        fields = {"optimizer": name, "grid": "1x4x4", "stack": NUM_SLOTS, "base_lr": 0.01, "clip_norm": 1.0, "momentum": 0.9}
        recipe = changed(Recipe(), {**fields, "blend_centre": "1ep", "blend_period": "1ep", "workers_per_forward": 2})
        fix_arithmetic(recipe)
        model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=NUM_SLOTS).cuda()
        plans = [RunPlan(changed(recipe, {"seed": seed}), 320) for seed in range(NUM_SLOTS)]
        self.states = [TrainState(model, slot, plan) for slot, plan in enumerate(plans)]
        self.engine: Any = build_engine(model, recipe, World())
        self.batches: Any = OnDevice()

    def move(
        self, step: int, at_once: bool = False, before: MovingStep | None = None
    ) -> tuple[MovingStep, list[StepRecord]]:
        """Give a step to the device as the loop does; return it and the records of the step before."""
        found = gradients_of(self.states, self.engine, self.batches, step)
        records = before.records() if before is not None else []
        states = [state for state in self.states if all(record.taken for record in records if record.state is state)]
        return MovingStep(states, found, step, at_once=at_once), records

    def held(self, slot: int) -> dict[str, bytes]:
        state = self.states[slot]
        tensors = {**state.weights(), **state.optimizer_tensors(), "running": state.running}
        return {name: tensor.detach().cpu().numpy().tobytes() for name, tensor in tensors.items()}


@pytest.fixture
def forbidding() -> Iterator[Callable[[], None]]:
    """From when it is called on, torch raises an error where the host waits for the device."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_step_waits(forbidding: Callable[[], None], name: OptimizerName) -> None:
    ready = Ready(name)
    moving, _ = ready.move(0)  # brings constants to the device
    moving, _ = ready.move(1, before=moving)
    forbidding()
    read: list[StepRecord] = []
    for step in range(2, 6):
        moving, records = ready.move(step, before=moving)
        read += records
    torch.cuda.set_sync_debug_mode("default")
    read += moving.records()
    assert [record.step for record in read] == [step for step in range(1, 6) for _ in range(NUM_SLOTS)]
    assert all(record.taken and math.isfinite(record.statistics.loss) for record in read)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_step_waits_after_a_run_was_continued(forbidding: Callable[[], None], name: OptimizerName) -> None:
    ready = Ready(name)
    moving, _ = ready.move(0)
    moving.records()
    for state in ready.states:
        state.restore_optimizer({label: tensor.cpu() for label, tensor in state.optimizer_tensors().items()})
    moving, _ = ready.move(1)
    moving, _ = ready.move(2, before=moving)  # whatever is wanted elsewhere has come there
    forbidding()
    for step in range(3, 6):
        moving, _ = ready.move(step, before=moving)
    torch.cuda.set_sync_debug_mode("default")
    assert [record.step for record in moving.records()] == [5] * NUM_SLOTS


@pytest.mark.parametrize("augment", ["none", "flip", "shift-flip"])
def test_images_that_stay_on_the_device_come_without_a_wait(forbidding: Callable[[], None], augment: Augmentation) -> None:
    generator = np.random.default_rng(0)
    resident = ResidentImages(50, 8, torch.device("cuda"), has_border=augment != "none")
    images = torch.from_numpy(generator.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
    resident.put(np.arange(50), images.cuda(), {})
    ids, keys = generator.permutation(50), generator.integers(0, 2**63, 50, dtype=np.uint64)
    shifts = whole_draws(augment, keys)
    torch.set_deterministic_debug_mode("error")
    normalised(resident.get(ids, shifts))  # brings constants to the device
    forbidding()
    found = normalised(resident.get(ids, shifts))
    torch.cuda.set_sync_debug_mode("default")
    on_processor = ResidentImages(50, 8, torch.device("cpu"), has_border=augment != "none")
    on_processor.put(np.arange(50), images, {})
    assert torch.equal(found.cpu(), normalised(on_processor.get(ids, shifts)))


def test_images_are_flipped_on_the_device_without_a_wait(forbidding: Callable[[], None]) -> None:
    generator = np.random.default_rng(0)
    images, flip = torch.from_numpy(generator.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)), generator.random(20) < 0.5
    on_device = images.cuda()
    normalised(on_device, flip)  # brings constants to the device
    forbidding()
    found = normalised(on_device, flip)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), normalised(images, flip))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_spoilt", [0, 3])
def test_the_same_bytes_as_waiting_in_every_step(name: OptimizerName, num_spoilt: int) -> None:  # W7
    """One of two runs is spoilt at a step: its weights are those before, the other goes on; both ways to the byte."""
    found = []
    for at_once in (True, False):
        ready, moving, records = Ready(name), None, []
        ready.batches.num_spoilt = num_spoilt
        for step in range(num_spoilt + 1):
            moving, earlier = ready.move(step, at_once, moving)
            records += earlier
            if at_once:
                records += moving.records()
                moving = None
        records += moving.records() if moving is not None else []
        assert [record.taken for record in records] == [True, True] * num_spoilt + [True, False]
        assert [state.tally.step for state in ready.states] == [num_spoilt + 1, num_spoilt]
        numbers = [(record.statistics.loss, record.statistics.gradient_norm, record.clip) for record in records[:-1]]
        found.append((numbers, [ready.held(slot) for slot in range(NUM_SLOTS)]))
        assert all(tensor.isfinite().all() for tensor in ready.states[1].weights().values())
    assert found[0] == found[1]


def test_a_spoilt_first_step_leaves_the_first_weights() -> None:  # W7
    ready = Ready("adamw")
    ready.batches.num_spoilt = 0
    before = [weights_sha256(state.weights()) for state in ready.states]
    moving, _ = ready.move(0)
    moving.records()
    after = [weights_sha256(state.weights()) for state in ready.states]
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    assert ready.states[1].optimizer_tensors() == {}


def test_numbers_are_those_of_the_moment_they_were_sent_for() -> None:
    values = torch.arange(6.0, device="cuda", dtype=torch.float64).view(2, 3)
    arriving = Arriving(values)
    values.fill_(7.0)
    assert not arriving.here
    assert arriving.read() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
