"""The learning rate as a pure function of the step: a warmup joined to a decay.

Nothing here has state (statement L1): the rate at a step is the same however often, in whatever order and on whichever
process it is asked for, so it can be drawn without training.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Rate = Callable[[int], float]
WarmupShape = Literal["linear", "constant", "exponential", "polynomial"]
FirstStep = Literal["open", "closed"]
DecayShape = Literal["step", "cosine", "polynomial", "linear", "exponential", "constant"]


def warmup(
    shape: WarmupShape, start: float, peak: float, num_steps: int, *, first: FirstStep = "open", power: float = 1.0
) -> Rate:
    """Rise from `start` to `peak` within `num_steps` steps, never above the peak (statement L3).

    Parameters
    ----------
    shape
        `linear`; `constant` (stay at `start`, then jump); `exponential` (equal ratios; `start` > 0);
        `polynomial` (start + (peak - start) * t ** power).
    start
        A start above the peak counts as the peak: below its reference batch a rule has nothing to warm up to.
    first
        `open`: step 0 is one increment above `start` and the last of the warmup steps is exactly at the peak, as in
        the public Horovod example (statement L4). `closed`: step 0 is at `start`, the first step
        after the warmup at the peak.
    """
    start = min(start, peak)

    def rate(step: int) -> float:
        position = step + 1 if first == "open" else step
        if shape == "constant":
            return start if step < num_steps else peak
        if position >= num_steps:
            return peak
        share = position / num_steps
        if shape == "exponential":
            between = start * math.pow(peak / start, share)
        else:
            between = start + (peak - start) * (math.pow(share, power) if shape == "polynomial" else share)
        return min(between, peak)  # whatever the rounding

    return rate


def step_decay(peak: float, boundaries: Sequence[int], factor: float) -> Rate:
    """Multiply by `factor` at each boundary, given in absolute steps."""
    return lambda step: peak * factor ** sum(step >= boundary for boundary in boundaries)


def cosine_decay(peak: float, final: float, start: int, end: int) -> Rate:
    """Half a cosine from the peak at step `start` to `final` at step `end` (Loshchilov and Hutter, arXiv 1608.03983)."""
    return lambda step: _between(peak, final, 0.5 * (1.0 + math.cos(math.pi * _share(step, start, end))))


def polynomial_decay(peak: float, final: float, start: int, end: int, power: float) -> Rate:
    """Fall as (1 - t) ** power from the peak at step `start` to `final` at step `end`."""
    return lambda step: _between(peak, final, (1.0 - _share(step, start, end)) ** power)


def exponential_decay(peak: float, final: float, start: int, end: int) -> Rate:
    """Fall by equal ratios from the peak at step `start` to `final` > 0 at step `end`."""
    return lambda step: peak * (final / peak) ** _share(step, start, end)


def constant(peak: float) -> Rate:
    """Stay at the peak."""
    return lambda step: peak


def _between(peak: float, final: float, weight: float) -> float:
    """Weigh the two so that weight 1 gives exactly the peak and weight 0 exactly the final rate, whatever the rounding."""
    return peak * weight + final * (1.0 - weight)


def _share(step: int, start: int, end: int) -> float:
    return min(max((step - start) / max(end - start, 1), 0.0), 1.0)


@dataclass(frozen=True)
class LRSchedule:
    """A warmup of `warmup_steps` steps joined to a decay; call it with a step (from 0) to get the rate.

    Examples
    --------
    >>> schedule = LRSchedule(warmup("linear", 0.0125, 3.0, 420), step_decay(3.0, [1260], 0.1), 420, 3780)
    >>> round(schedule(0), 6), schedule(419), schedule(1259)
    (0.019613, 3.0, 3.0)
    """

    warmup_rate: Rate
    decay_rate: Rate
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        return self.warmup_rate(step) if step < self.warmup_steps else self.decay_rate(step)

    def trace(self, first: int = 0, last: int | None = None) -> list[float]:
        """Return the rates of steps first..last-1 (default: all)."""
        return [self(step) for step in range(first, self.total_steps if last is None else last)]
