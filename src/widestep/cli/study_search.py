"""What the command line says about the searches of a study, and taking them further between two rounds of work."""

from collections.abc import Sequence

from widestep.study.sampling import require_optuna
from widestep.study.searching import SearchSummary, extend
from widestep.study.store import StudyStore


def search_on(store: StudyStore, num_known: int = 0) -> bool:
    """Take the searches of a study further, as far as outcomes allow; say whether there is more to run.

    Parameters
    ----------
    num_known
        Trials known when the work began that has ended. Workers propose, too, so there may be more by now.

    Raises
    ------
    EnvironmentFault
        When Optuna is not installed.
    """
    if not store.searched.arms:
        return False
    if not store.searched.is_over():
        require_optuna()
        while extend(store):
            pass
    states = store.states()
    return len(states) > num_known and any(state.runnable or state.status == "running" for state in states)


def search_lines(found: Sequence[SearchSummary]) -> list[str]:
    """Return a line for each combination that is searched: how far, and the best so far."""
    lines = []
    for one in found:
        counts = [f"{one.num_tried} of at most {one.num_trials} tried"]
        counts += [f"{one.num_pruned} given up"] * (one.num_pruned > 0)
        counts += [f"{one.num_diverged} diverged"] * (one.num_diverged > 0)
        best = "" if one.best is None else f"; best {one.best_words}: {one.accuracy:.2f} %"
        lines.append(f"search     {' '.join(filter(None, [one.arm, one.words]))}: {', '.join(counts)}{best}")
    return lines
