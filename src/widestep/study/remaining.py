"""How long a study still takes, from the trials seen so far; no clock of its own.

Trials differ in cost. A stack of T places costs as much however many of its places are taken, and its time is about
``c * (T * images + r * steps)``: c seconds an image, and each step as much again as r images. Both are fitted to what was
seen, in logarithms, with a weak pull towards r = 200; a shape that was seen itself is taken as it was. The stacks that wait
are then given to the slots as the workers will take them, and the study ends when the last slot is free.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from widestep.plan.runplan import RunPlan
from widestep.study.study import Trial

_USUAL_RATIO = 200.0
_RATIOS = tuple(_USUAL_RATIO * 2.0 ** (power / 2) for power in range(-12, 13))
_PULL = 0.0005
"""Of the usual ratio: what a factor of two away costs, beside the squared relative errors of the trials seen."""

_LEAST_TRUST, _SHARE_TO_TRUST = 0.01, 0.2
"""How far a running trial's own pace is believed: little at its first sign, wholly after a fifth of it."""


@dataclass
class _Track:
    """When a running trial was how far, in shares of itself."""

    began: float
    first: float
    marks: list[tuple[float, float]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.marks[-1][1] if self.marks else self.first

    @property
    def changed(self) -> float:
        return self.marks[-1][0] if self.marks else self.began

    @property
    def pace(self) -> "_Pace | None":
        """The whole trial at its pace so far, its start included where it was seen; None when nobody knows."""
        if not self.marks:
            return None
        (time, share), (last, newest) = self.marks[0], self.marks[-1]
        if len(self.marks) == 1:  # mostly its start
            return _Pace((time - self.began) / (share - self.first), _LEAST_TRUST)
        seconds = (last - time) / (newest - share)
        start = max(0.0, time - self.began - seconds * (share - self.first))
        return _Pace(seconds + start, min(1.0, max(_LEAST_TRUST, (newest - share) / _SHARE_TO_TRUST)))


class _Pace(NamedTuple):
    """Seconds that a trial takes, and how far they are to be trusted, in (0, 1]."""

    seconds: float
    trust: float


class StudyRemaining:
    """Estimates the time left of a study and of its trials.

    Parameters
    ----------
    plans
        Of every trial, by fingerprint.
    num_slots
        Stacks that are computed side by side.
    predicted
        Seconds that the trials of `to_run` were predicted to take in all, until something is known; None for no prediction.
    """

    def __init__(self, plans: Mapping[str, RunPlan], num_slots: int, predicted: float | None, to_run: Sequence[str]) -> None:
        self._plans = plans
        self._num_slots = num_slots
        self._tracks: dict[str, _Track] = {}
        self._seen: dict[str, _Pace] = {}
        costs = sum(self._cost(name, _USUAL_RATIO) / plans[name].recipe.stack for name in to_run)
        self._guess = None if predicted is None or not costs else predicted * num_slots / costs

    def _cost(self, name: str, ratio: float) -> float:
        """Return what a trial's stack costs, in images: `ratio` of them for each step."""
        plan = self._plans[name]
        return plan.recipe.stack * plan.total_images + ratio * plan.total_steps

    def observe(self, running: Mapping[str, float], finished: Sequence[str], now: float) -> None:
        """Take note of the shares of the running trials, and of the trials that have an outcome."""
        for name, share in running.items():
            track = self._tracks.setdefault(name, _Track(now, share))
            if share > track.share:
                track.marks.append((now, share))
        for name in [name for name in self._tracks if name not in running]:
            track = self._tracks.pop(name)
            if name in finished and track.first < 1:
                self._seen[name] = _Pace((now - track.began) / (1 - track.first), 1.0)

    def of_trial(self, name: str, now: float) -> float | None:
        """Return the seconds left of a running trial."""
        track, whole = self._tracks[name], self._predict([name]).get(name)
        if whole is None:
            return None
        if track.pace is not None:
            whole += track.pace.trust * (track.pace.seconds - whole)
        return max(0.0, whole * (1 - track.share) - (now - track.changed))

    def seconds(self, waiting: Sequence[Sequence[Trial]], now: float) -> float | None:
        """Return the seconds left of the study.

        Parameters
        ----------
        waiting
            Stacks that nobody has begun, in the order in which they will be taken.
        """
        firsts = [stack[0].fingerprint for stack in waiting]
        predicted = self._predict(firsts)
        left = [self.of_trial(name, now) for name in self._stacks()]
        if None in left or any(name not in predicted for name in firsts):
            return None
        slots = [seconds for seconds in left if seconds is not None]
        slots += [0.0] * (self._num_slots - len(slots))
        heapq.heapify(slots)
        for name in firsts:
            heapq.heapreplace(slots, slots[0] + predicted[name])
        return max(slots)

    def _stacks(self) -> list[str]:
        """Return one running trial of every stack: those of one shape that have different places share one."""
        places: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
        for name in self._tracks:
            recipe = self._plans[name].recipe
            places[recipe.stack_key, recipe.slot].append(name)
        longest: dict[str, list[str]] = {}
        for (shape, _), names in places.items():
            longest[shape] = max(longest.get(shape, []), names, key=len)
        return [name for names in longest.values() for name in names]

    def _predict(self, names: Sequence[str]) -> dict[str, float]:
        """Return the seconds that stacks take, by one of their trials each; nothing when nothing is known."""
        seen = {name: pace for name, track in self._tracks.items() if (pace := track.pace)} | self._seen
        of_shape: defaultdict[str, list[_Pace]] = defaultdict(list)
        for name, pace in seen.items():
            of_shape[self._plans[name].recipe.stack_key].append(pace)
        scale, ratio = self._fit(seen)
        found = {}
        for name in names:
            same = of_shape.get(self._plans[name].recipe.stack_key, [])
            if scale is not None:
                trust = sum(pace.trust for pace in same)
                fitted = max(0.0, 1.0 - trust)  # what other shapes tell gives way to what this one does
                total = sum(pace.trust * pace.seconds for pace in same) + fitted * scale * self._cost(name, ratio)
                found[name] = total / (trust + fitted)
        return found

    def _fit(self, seen: Mapping[str, _Pace]) -> tuple[float | None, float]:
        """Return seconds an image, and images a step, that fit best; what was guessed while nothing has been seen."""
        if not seen:
            return self._guess, _USUAL_RATIO
        best, trusted = (math.inf, 0.0, _USUAL_RATIO), sum(pace.trust for pace in seen.values())
        for ratio in _RATIOS:
            logs = [math.log(max(pace.seconds, 1e-6) / self._cost(name, ratio)) for name, pace in seen.items()]
            mean = sum(pace.trust * value for pace, value in zip(seen.values(), logs, strict=True)) / trusted
            error = sum(pace.trust * (value - mean) ** 2 for pace, value in zip(seen.values(), logs, strict=True)) / trusted
            error += _PULL * math.log2(ratio / _USUAL_RATIO) ** 2
            best = min(best, (error, math.exp(mean), ratio))
        return best[1], best[2]
