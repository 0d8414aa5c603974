"""One optimizer step of all runs of a stack, which on a GPU the host does not wait for.

A step is given to the device as a whole; loss and norms come over while it works on the next one::

    host     gradients(s)  apply(s)  gradients(s+1)  read(s)  apply(s+1)  gradients(s+2)  read(s+1)  ...
    device      gradients(s)  apply(s)  gradients(s+1)     apply(s+1)  gradients(s+2)     ...

Where the numbers are known before the update - on the CPU, with AdaScale, whose rate follows from them, and with several
processes, which meet in every step - a step that is not finite is not applied. Elsewhere it is, and taken back when it is
read: before the next one is applied, and before anybody looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from widestep.optim.build import clip_factor, clip_factor_on_device, trust_ratios
from widestep.records.gradients import GradientStatistics
from widestep.train.arriving import Arriving
from widestep.train.batches import Batches
from widestep.train.normalisation import centre_of, of_step
from widestep.train.state import Applied, TrainState
from widestep.workers.engine import GradientEngine, StepGradients


@dataclass(frozen=True)
class StepRecord:
    """What one step did to one run."""

    state: TrainState
    step: int
    statistics: GradientStatistics
    applied: Applied
    taken: bool
    """False when the run has diverged (statement W7): its weights are still those before the step."""
    ratios: Arriving | None
    """The trust ratios of the step, as `trust_ratios`."""

    @property
    def clip(self) -> float | None:
        """Factor of the averaged gradient; 1 where it was not longer than allowed. None without a limit."""
        limit = self.state.plan.recipe.clip_norm
        return None if limit is None else clip_factor(self.statistics.gradient_norm, limit)


class MovingStep:
    """A step that was given to the device.

    Parameters
    ----------
    states
        The runs that take it.
    found
        Their gradients.
    step
        Its number, counted from 0.
    at_once
        Wait for the numbers before anything is applied.
    """

    def __init__(self, states: Sequence[TrainState], found: StepGradients, step: int, *, at_once: bool) -> None:
        self._found, self._step = found, step
        self._numbers = Arriving(found.numbers)
        self.known = at_once or self._numbers.here or any(state.plan.recipe.scaling == "adascale" for state in states)
        """Whether the numbers were read before anything was applied."""
        read = self._read() if self.known else None
        moments = of_step(found.moments)
        self._moved: list[tuple[TrainState, Applied, Arriving | None]] = []
        for state in states:
            statistics, taken = (None, True) if read is None else read[state.slot]
            applied, ratios = state.decide(statistics, step), None
            if taken:
                if read is None:
                    state.keep()
                limit, norm = state.plan.recipe.clip_norm, found.numbers[1, state.slot]
                clip = None if limit is None else clip_factor_on_device(norm, limit)
                state.apply(found.gradients[state.slot], applied, clip)
                state.move_statistics(moments[state.slot])
                values = trust_ratios(state.optimizer)
                ratios = None if values is None else Arriving(values)
            self._moved.append((state, applied, ratios))

    def records(self) -> list[StepRecord]:
        """Return one record a run, in order, and count the step in those that took it; to be called once."""
        records = []
        read = self._read()
        for state, applied, ratios in self._moved:
            statistics, taken = read[state.slot]
            if taken:
                state.advance(statistics, applied)
            elif not self.known:
                state.step_back()
            records.append(StepRecord(state, self._step, statistics, applied, taken, ratios))
        return records

    def _read(self) -> list[tuple[GradientStatistics, bool]]:
        return self._found.read(self._numbers.read())


def gradients_of(states: Sequence[TrainState], engine: GradientEngine, batches: Batches, step: int) -> StepGradients:
    """Compute the gradients of all workers at step number `step`, counted from 0, for the runs that are still going."""
    centre = centre_of(states, engine)
    return engine.gradients(batches.at(step), batches.num_images(step), batches.placement(step), centre)


def take_step(states: Sequence[TrainState], engine: GradientEngine, batches: Batches, step: int) -> list[StepRecord]:
    """Take one step, wait for it and return one record a run, in order."""
    found = gradients_of(states, engine, batches, step)
    return MovingStep(states, found, step, at_once=False).records()
