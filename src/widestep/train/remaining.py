"""How long a training still takes, from what this session has seen of it; no torch, and no clock of its own.

The time left is that of the steps and of the evaluations that are left. Both are learnt from the later half of what was
seen, so that a slow beginning - kernels that are compiled, files that no memory holds yet - stops counting. Steps of numbers
of workers that have not come yet (`worker_ramp`) are taken to cost by their images.
"""

from widestep.plan.runplan import RunPlan

_MOST_MARKS = 256
_SHARE_OF_TRAINING = 0.3
"""What evaluating an image costs, in units of training on one, until it was measured: a pass forward of three passes."""


class Pace:
    """How long each of many like things takes, by the later half of them.

    Parameters
    ----------
    period
        After so many the same happens again, as at the beginning of every epoch: whole periods are looked at where one was
        seen.

    Examples
    --------
    >>> pace = Pace()
    >>> for seconds in (9.0, 1.0, 1.0, 1.0):
    ...     pace.add(seconds)
    >>> pace.seconds
    1.0
    """

    def __init__(self, period: int = 1) -> None:
        self._period = period
        self._number, self._total = 0, 0.0
        self._stride = 1
        self._marks = [0.0]
        """What the first 0, stride, 2 * stride, ... took together."""

    def add(self, seconds: float) -> None:
        """Count one more, which took so long."""
        self._number += 1
        self._total += seconds
        if self._number % self._stride == 0:
            self._marks.append(self._total)
        if len(self._marks) > _MOST_MARKS:
            self._marks = self._marks[::2]
            self._stride *= 2

    @property
    def seconds(self) -> float | None:
        """Seconds each; None when none was seen."""
        if self._number == 0:
            return None
        wanted = (self._number + 1) // 2
        if self._number >= self._period:
            wanted = max(1, wanted // self._period) * self._period
        at = max(0, self._number - wanted) // self._stride
        return (self._total - self._marks[at]) / (self._number - at * self._stride)


class Remaining:
    """Estimates the time left of a run.

    Parameters
    ----------
    plan
        Of the run.
    step
        Where this session begins: only this session's speed counts.
    num_val
        Validation images.
    num_final_evaluations
        How many evaluations the end of training has besides the planned one.
    now
        When the session begins; like all times here in seconds of one clock that never goes back.
    progress
        Where this session begins in steps of the schedule, as of `RunPlan.length`.
    """

    def __init__(
        self, plan: RunPlan, step: int, num_val: int, now: float, *, progress: float = 0.0, num_final_evaluations: int = 0
    ) -> None:
        self._plan = plan
        self._num_val = num_val
        self._num_final = num_final_evaluations
        self._steps: dict[int, Pace] = {}
        self._gains = Pace()
        self._evaluations = Pace()
        self._step, self._progress, self._last = step, progress, now
        self._is_due = False

    def stepped(self, step: int, progress: float, now: float) -> None:
        """Take note of a step that has ended."""
        position = self._plan.position(step - 1)
        self._steps.setdefault(position.grid.global_batch, Pace(position.shape.steps)).add(now - self._last)
        self._gains.add(progress - self._progress)
        self._step, self._progress, self._last = step, progress, now
        self._is_due = self._plan.evaluation_due(step, progress)

    def evaluated(self, now: float) -> None:
        """Take note of an evaluation that has ended."""
        self._evaluations.add(now - self._last)
        self._last, self._is_due = now, False

    def seconds(self, now: float) -> float | None:
        """Return the seconds left; None before the first step."""
        gain = self._gains.seconds
        if gain is None:
            return None
        left = self._plan.length - self._progress
        end = min(self._plan.total_steps, self._step + round(left / gain)) if gain > 0 else self._plan.total_steps
        stages = self._plan.timeline.stages
        ends = [stage.first_step for stage in stages[1:]] + [end]
        total = 0.0
        for stage, stage_end in zip(stages, ends, strict=True):
            num_steps = min(stage_end, end) - max(stage.first_step, self._step)
            if num_steps > 0:
                total += num_steps * self._seconds_of_step(stage.shape.grid.global_batch)
        share = (end - self._step) / max(1, self._plan.total_steps - self._step)  # under AdaScale fewer steps than planned
        num_evaluations = round(self._plan.evaluations_after(self._step) * share) + self._is_due + self._num_final
        total += num_evaluations * self._seconds_of_evaluation()
        return max(0.0, total - (now - self._last))

    def _seconds_of_step(self, global_batch: int) -> float:
        """Return what a step costs, on the straight line through the nearest numbers of images that were seen."""
        seen = sorted(self._steps, key=lambda batch: abs(batch - global_batch))
        first = self._steps[seen[0]].seconds or 0.0
        if seen[0] == global_batch or len(seen) == 1:
            return first * global_batch / seen[0]
        slope = ((self._steps[seen[1]].seconds or 0.0) - first) / (seen[1] - seen[0])
        return first + max(0.0, slope) * (global_batch - seen[0]) if global_batch > seen[0] else first

    def _seconds_of_evaluation(self) -> float:
        seconds = self._evaluations.seconds
        if seconds is not None:
            return seconds
        images = self._plan.grid_at(max(0, self._step - 1)).global_batch
        return _SHARE_OF_TRAINING * self._num_val * self._seconds_of_step(images) / images
