"""A worker of a search: train a stack, and give up the runs that are hopeless."""

from collections.abc import Sequence

from widestep.cli.console import SilentWatcher
from widestep.data.loading import Kept
from widestep.errors import Stopped
from widestep.plan.execution import Execution
from widestep.plan.runplan import RunPlan
from widestep.study.pruning import write_pruned
from widestep.study.searching import Giving
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.train.evaluate import Evaluation
from widestep.train.loop import train
from widestep.train.stop import StopRequest
from widestep.workers.world import World


class _StopOrPrune(StopRequest):
    """Asks to stop as another request does, and when all runs of the stack were given up."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__()
        self._stop = stop
        self.all_pruned = False

    def due(self, margin: float) -> bool:
        """Say whether it is time to stop, when that takes up to `margin` seconds."""
        return self._stop.due(margin) or self.all_pruned

    @property
    def reason(self) -> str | None:
        """Why this process stops; None when it was not asked to."""
        return self._stop.reason or ("the search, which gives it up" if self.all_pruned else None)

    def reason_of_others(self, margin: float) -> str:
        """Return why all stop when this process was not asked to."""
        return self._stop.reason_of_others(margin)


class _PruningWatcher(SilentWatcher):
    """Looks at the runs of a stack after every evaluation; runs that are given up stay in it until all are, or its end."""

    def __init__(self, store: StudyStore, giving: Giving, trials: Sequence[Trial], stop: _StopOrPrune) -> None:
        self._store = store
        self._giving = giving
        self._left = list(trials)
        self._stop = stop

    def evaluated(self, plan: RunPlan, step: int, evaluation: Evaluation) -> None:
        """Give up what is hopeless."""
        for trial in list(self._left):
            why = self._giving.why(trial, plan.num_epochs)
            if why is not None:
                write_pruned(self._store.run(trial), why)
                self._left.remove(trial)
        self._stop.all_pruned = not any(not self._store.run(trial).finished() for trial in self._left)


def train_or_prune(
    store: StudyStore,
    giving: Giving,
    trials: Sequence[Trial],
    execution: Execution,
    world: World,
    stop: StopRequest,
    *,
    kept: Kept | None = None,
) -> None:
    """Train trials that share a stack to their outcome, which may be that all are given up.

    Raises
    ------
    WidestepError
        As `train`; Stopped only where somebody asked for it.
    """
    either = _StopOrPrune(stop)
    watcher = _PruningWatcher(store, giving, trials, either)
    try:
        train([store.run(trial) for trial in trials], execution, world, watcher, either, kept)
    except Stopped:
        if not world.broadcast_json(either.all_pruned and stop.reason is None):
            raise
