"""The learning rate as a pure function of the step: a warmup joined to a decay.

Nothing here has state (statement L1): the rate at a step is the same however often, in whatever order and on whichever
process it is asked for, so it can be drawn without training.
"""

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Rate = Callable[[int], float]
WarmupShape = Literal["linear", "constant", "exponential", "polynomial"]
FirstStep = Literal["open", "closed"]
DecayShape = Literal["step", "cosine", "polynomial", "linear", "exponential", "constant"]


def warmup(
    shape: WarmupShape,
    start: float,
    peak: float,
    num_steps: int,
    *,
    first: FirstStep = "open",
    power: float = 1.0,
    length: float | None = None,
) -> Rate:
    """Rise from `start` to `peak` within `num_steps` steps, never above the peak (statement L3) unless told to overshoot.

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
    length
        Steps, perhaps not a whole number, after which the rise reaches the peak; at most `num_steps`, which is the default.
        When it is less, the rate goes on rising at the same pace above the peak, and falls to the peak after `num_steps`
        steps: t = (step + 1) / length passes 1 (statement L4, a fractional warmup of the public Horovod example).
    """
    start = min(start, peak)
    length = float(num_steps) if length is None else length

    def rate(step: int) -> float:
        position = step + 1 if first == "open" else step
        if shape == "constant":
            return start if step < num_steps else peak
        if step >= num_steps or position == length:
            return peak
        share = position / length
        if shape == "exponential":
            between = start * math.pow(peak / start, share)
        else:
            between = start + (peak - start) * (math.pow(share, power) if shape == "polynomial" else share)
        return min(between, peak) if position < length else max(between, peak)  # whatever the rounding

    return rate


def step_decay(peak: float, boundaries: Sequence[int], factors: Sequence[float]) -> Rate:
    """Multiply by a factor at each boundary.

    Parameters
    ----------
    boundaries
        Absolute steps, in any order.
    factors
        One for all boundaries, or one for each of them.
    """
    each = factors if len(factors) == len(boundaries) else [*factors] * len(boundaries)
    pairs = sorted(zip(boundaries, each, strict=True))
    steps = [boundary for boundary, _ in pairs]
    passed = (Counter(factor for _, factor in pairs[:count]) for count in range(len(pairs) + 1))
    levels = [peak * math.prod(factor**times for factor, times in factors.items()) for factors in passed]
    return lambda step: levels[bisect.bisect_right(steps, step)]


def cosine_decay(peak: float, final: float, start: int, end: int) -> Rate:
    """Half a cosine from the peak at step `start` to `final` at step `end` (Loshchilov and Hutter, arXiv 1608.03983)."""
    return lambda step: _between(peak, final, 0.5 * (1.0 + math.cos(math.pi * _share(step, start, end))))


def polynomial_decay(peak: float, final: float, start: int, end: int, power: float) -> Rate:
    """Fall as (1 - t) ** power from the peak at step `start` to `final` at step `end`."""
    return lambda step: _between(peak, final, (1.0 - _share(step, start, end)) ** power)


def exponential_decay(peak: float, final: float, start: int, end: int) -> Rate:
    """Fall by equal ratios from the peak at step `start` to `final` > 0 at step `end`."""

    def rate(step: int) -> float:
        share = _share(step, start, end)
        return final if share == 1.0 else peak * (final / peak) ** share

    return rate


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
    >>> schedule = LRSchedule(warmup("linear", 0.0125, 3.0, 420), step_decay(3.0, [1260], [0.1]), 420, 3780)
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
