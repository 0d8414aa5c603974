"""One optimizer step of all runs of a stack."""

from collections.abc import Sequence
from dataclasses import dataclass

from widestep.models.stacked import StackedModel
from widestep.records.gradients import GradientStatistics
from widestep.train.batches import Batches
from widestep.train.state import TrainState, update_running_statistics
from widestep.workers.engine import GradientEngine


@dataclass(frozen=True)
class StepRecord:
    """What one step did to one run."""

    state: TrainState
    step: int
    lr: float
    statistics: GradientStatistics
    taken: bool
    """False when the run has diverged (statement W7): its weights are still those before the step."""


def take_step(
    model: StackedModel, states: Sequence[TrainState], engine: GradientEngine, batches: Batches, step: int
) -> tuple[list[StepRecord], bool]:
    """Take step number `step`, counted from 0, in every run that is still going.

    Returns
    -------
    One record a run, in order; and whether some process was asked to stop.
    """
    found = engine.gradients(batches.at(step), batches.num_images(step))
    records = []
    for state in states:
        statistics, lr = found.of_slot[state.slot], state.plan.schedule(step)
        taken = found.finite[state.slot]
        if taken:
            state.apply(found.gradients[state.slot], lr)
            state.tally.step = step + 1
            state.tally.images_seen += statistics.num_images
            state.tally.epoch_images += statistics.num_images
            state.tally.epoch_loss += statistics.loss * statistics.num_images
        records.append(StepRecord(state, step, lr, statistics, taken))
    slots = [record.state.slot for record in records if record.taken]
    update_running_statistics(model, found.batch_statistics, states[0].plan.recipe.batchnorm_momentum, slots)
    return records, found.stop_requested
