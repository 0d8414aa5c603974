"""Signs of life: what a process shows of itself, in memory that it shares with its launcher."""

import time
from typing import Literal, get_args

Phase = Literal["starting", "computing", "exchanging", "evaluating", "saving", "finishing"]
_PHASES: tuple[Phase, ...] = get_args(Phase)
_BEAT, _PHASE, _STEP, _MEETINGS = range(4)
NUM_BYTES = 8 * 4
"""Of one process."""


class Pulse:
    """One process's signs of life: it writes them, the launcher reads them.

    Every number lies in eight aligned bytes of its own, which a processor writes at once, so nobody reads half of one.

    Parameters
    ----------
    memory
        `NUM_BYTES` writable bytes; without any, nobody sees them.
    job
        Those of all processes of the job, one after another; without any, it knows of itself alone.

    Examples
    --------
    >>> pulse = Pulse()
    >>> pulse.beat("computing", step=7)
    >>> pulse.phase, pulse.step, pulse.num_meetings
    ('computing', 7, 0)
    """

    def __init__(self, memory: memoryview | None = None, job: memoryview | None = None) -> None:
        self._numbers = (memoryview(bytearray(NUM_BYTES)) if memory is None else memory).cast("d")
        self._job = self._numbers if job is None else job.cast("d")
        self.beat("starting", step=0)

    def beat(self, phase: Phase, step: int | None = None) -> None:
        """Show that the process is alive, what it does, and how many steps were taken."""
        if step is not None:
            self._numbers[_STEP] = float(step)
        self._numbers[_PHASE] = float(_PHASES.index(phase))
        self._numbers[_BEAT] = time.monotonic()

    def meet(self) -> Phase:
        """Show that the process goes to meet the others; return what it did before."""
        before = self.phase
        self._numbers[_MEETINGS] += 1.0
        self.beat("exchanging")
        return before

    @property
    def last(self) -> float:
        """When it showed a sign of life, on the monotonic clock that all processes of a machine share."""
        return self._numbers[_BEAT]

    @property
    def phase(self) -> Phase:
        """What it does."""
        return _PHASES[int(self._numbers[_PHASE])]

    def phases(self) -> list[Phase]:
        """Return what every process of the job does, as far as it is known, in their order."""
        return [_PHASES[int(number)] for number in self._job[_PHASE :: NUM_BYTES // 8].tolist()]

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self._numbers[_STEP])

    @property
    def num_meetings(self) -> int:
        """How often it went to meet the others: whoever has been there less often is behind."""
        return int(self._numbers[_MEETINGS])
