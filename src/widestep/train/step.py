"""One optimizer step of all runs of a stack."""

from collections.abc import Sequence
from dataclasses import dataclass

from widestep.records.gradients import GradientStatistics
from widestep.train.batches import Batches
from widestep.train.normalisation import centre_of, of_step
from widestep.train.state import Applied, TrainState
from widestep.workers.engine import GradientEngine


@dataclass(frozen=True)
class StepRecord:
    """What one step did to one run."""

    state: TrainState
    step: int
    statistics: GradientStatistics
    applied: Applied
    taken: bool
    """False when the run has diverged (statement W7): its weights are still those before the step."""


def take_step(
    states: Sequence[TrainState], engine: GradientEngine, batches: Batches, step: int
) -> tuple[list[StepRecord], bool]:
    """Take step number `step`, counted from 0, in every run that is still going.

    Gradients of all workers -> gain -> rate -> optimizer -> running statistics -> progress -> one record.

    Returns
    -------
    One record a run, in order; and whether some process was asked to stop.
    """
    centre = centre_of(states, engine)
    found = engine.gradients(batches.at(step), batches.num_images(step), batches.placement(step), centre)
    moments = of_step(found.moments)
    records = []
    for state in states:
        statistics, taken = found.of_slot[state.slot], found.finite[state.slot]
        applied = state.decide(statistics, step)
        if taken:
            state.apply(found.gradients[state.slot], applied)
            state.move_statistics(moments[state.slot])
            state.advance(statistics, applied)
        records.append(StepRecord(state, step, statistics, applied, taken))
    return records, found.stop_requested
