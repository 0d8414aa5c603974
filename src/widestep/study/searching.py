"""Taking a study's searches further: what was tried, what to try next, what was best, which runs to give up.

Everybody who works on a study may do so. Settings are proposed in rounds, from the outcomes of the rounds before and nothing
else, so all who propose the next one propose the same, and a study that was killed goes on as if it had not been.
"""

from dataclasses import dataclass
from typing import Any

from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.study.pruning import Pruned, evaluations, hopeless, read_pruned
from widestep.study.sampling import Tried, ask
from widestep.study.search import Settings, dimensions
from widestep.study.searched import Proposal, SearchArm
from widestep.study.store import StudyStore, TrialState
from widestep.study.study import Cell, Trial, in_words


@dataclass(frozen=True)
class Attempt:
    """A proposal and how far its runs are."""

    proposal: Proposal
    states: list[TrialState]

    @property
    def finished(self) -> bool:
        """Whether all of its runs have an outcome."""
        return all(state.finished for state in self.states)

    @property
    def status(self) -> str:
        """Diverged or pruned where one of its runs is, complete where all are, otherwise open."""
        found = [state.status for state in self.states]
        return next((one for one in ("diverged", "pruned") if one in found), "complete") if self.finished else "open"

    @property
    def value(self) -> float:
        """Mean accuracy of its runs, in [0, 1]: final, when given up, or 0 where one diverged."""
        if self.status == "diverged":
            return 0.0
        return sum(state.val_accuracy or 0.0 for state in self.states) / len(self.states)

    def tried(self) -> Tried:
        """Return it as the sampler is told."""
        stopped = [found.epoch for state in self.states if (found := read_pruned(state.directory)) is not None]
        return Tried(self.proposal.settings, self.value, min(stopped) if self.status == "pruned" else None)


def attempts(store: StudyStore, arm: SearchArm) -> dict[str, list[Attempt]]:
    """Return what was proposed so far for each combination of an arm, with its states."""
    return {
        key: [Attempt(one, [store.state(trial) for trial in one.trials]) for one in proposals]
        for key, proposals in store.searched.proposals(arm).items()
    }


def best_of(found: list[Attempt]) -> Attempt | None:
    """Return the finished attempt of the highest value that was not given up, the first of equals; None when none is."""
    known = [one for one in found if one.status in ("complete", "diverged")]
    return max(known, key=lambda one: one.value, default=None)


def extend(store: StudyStore) -> bool:
    """Take every search of a study a round further whose trials all have an outcome; say whether one went further.

    Raises
    ------
    EnvironmentFault
        When a search needs Optuna and it is not installed, or a proposal cannot be written.
    """
    further = False
    for arm in store.searched.arms:
        if store.searched.best(arm) is not None:
            continue
        found = attempts(store, arm)
        if all(one.finished for some in found.values() for one in some):
            _take_further(store, arm, found)
            further = True
    return further


def _take_further(store: StudyStore, arm: SearchArm, found: dict[str, list[Attempt]]) -> None:
    search, rounds = arm.search, [one.proposal.round for some in found.values() for one in some]
    number = 1 + max(rounds, default=0)  # of what was read: somebody else may have written the next one since
    together = min(search.at_a_time, search.num_trials - (number - 1) * search.at_a_time)
    proposals = {key: _ask(arm, base, found[key], together) for key, base in zip(arm.keys, arm.bases, strict=True)}
    if together > 0 and any(proposals.values()):
        store.searched.write_round(arm, number, proposals)
        return
    best = {}
    for key, base in zip(arm.keys, arm.bases, strict=True):
        one = best_of(found[key])
        if one is None:
            raise UsageError(f"A search needs settings that make a recipe. Arm {arm.name} has none for {base.label}.")
        best[key] = one.proposal.settings
    store.searched.write_best(arm, best)


def _ask(arm: SearchArm, base: Cell, found: list[Attempt], num_wanted: int) -> list[Settings]:
    known = {one.proposal.trials[0].fingerprint for one in found}

    def is_new(settings: Settings) -> bool:
        try:
            recipe = recipes.changed(base.recipe, {**settings, "seed": arm.search.seeds[0]}, typed=True)
        except UsageError:  # within the ranges, but no recipe
            return False
        return recipe.fingerprint not in known

    if num_wanted < 1:
        return []
    name = f"{arm.design}/{base.fingerprint(0)}"
    tried = [one.tried() for one in found]
    return ask(name, dimensions(arm.search, base.recipe), tried, num_wanted, arm.search.num_trials, is_new)


def may_extend(store: StudyStore) -> bool:
    """Say whether a search goes on as soon as trials that others are at have an outcome."""
    for arm in store.searched.arms:
        if store.searched.best(arm) is None:
            statuses = {state.status for some in attempts(store, arm).values() for one in some for state in one.states}
            if "running" in statuses and "failed" not in statuses:
                return True
    return False


class Giving:
    """Which of some trials' runs to give up."""

    def __init__(self, store: StudyStore, trials: list[Trial]) -> None:
        self._store = store
        self._earlier: dict[str, tuple[float, list[Trial]]] = {}
        wanted = {trial.fingerprint: trial for trial in trials}
        for arm in store.searched.arms:
            if arm.search.pruning == "median":
                for proposals in store.searched.proposals(arm).values():
                    for one in proposals:
                        for place, trial in enumerate(one.trials):
                            if trial.fingerprint in wanted:
                                others = [each.trials[place] for each in proposals if each.round < one.round]
                                self._earlier[trial.fingerprint] = arm.search.prune_after, others
        self._curves: dict[str, list[dict[float, float]]] = {}

    def __bool__(self) -> bool:
        """Whether any of the trials may be given up."""
        return bool(self._earlier)

    def why(self, trial: Trial, num_epochs: float) -> Pruned | None:
        """Return why to give a trial up now, by the evaluations that it has recorded; None when to go on."""
        if trial.fingerprint not in self._earlier:
            return None
        share, others = self._earlier[trial.fingerprint]
        if trial.fingerprint not in self._curves:
            complete = [other for other in others if self._store.state(other).status == "complete"]
            self._curves[trial.fingerprint] = [evaluations(self._store.run(other)) for other in complete]
        own = {epoch: value for epoch, value in evaluations(self._store.run(trial)).items() if epoch < num_epochs}
        return hopeless(own, self._curves[trial.fingerprint], share * num_epochs)


@dataclass(frozen=True)
class SearchSummary:
    """How far the search of one combination is, and what was found.

    Parameters
    ----------
    settings
        Of the combination.
    tried, trials
        Settings with their status and accuracy in percent; fingerprints of all runs, finished or not.
    best
        The best setting so far, with its mean accuracy in percent and what lies at an end of its range; None before any.
    """

    arm: str
    settings: Settings
    num_trials: int
    num_tried: int
    num_pruned: int
    num_diverged: int
    is_over: bool
    seeds: list[int]
    best: Settings | None
    accuracy: float | None
    at_edge: dict[str, str]
    tried: list[dict[str, Any]]
    trials: list[str]

    @property
    def words(self) -> str:
        """The combination in words, or nothing where there is one only."""
        return in_words(self.settings)

    @property
    def best_words(self) -> str:
        """The best setting in words, with what lies at an end of its range; nothing before there is one."""
        ends = {name: f" (the {end} allowed)" for name, end in self.at_edge.items()}
        return ", ".join(f"{name} {value}{ends.get(name, '')}" for name, value in (self.best or {}).items())


def summaries(store: StudyStore) -> list[SearchSummary]:
    """Return how far the searches of a study are, for each combination of their axes."""
    found = []
    for arm in store.searched.arms:
        known, is_over = attempts(store, arm), store.searched.best(arm) is not None
        for key, base in zip(arm.keys, arm.bases, strict=True):
            done = [one for one in known[key] if one.finished]
            best, counts = best_of(done), [one.status for one in done]
            picked = best.proposal.settings if best else None
            ends = {one.name: one.end(picked[one.name]) for one in dimensions(arm.search, base.recipe)} if picked else {}
            found.append(
                SearchSummary(
                    arm.name,
                    base.settings,
                    arm.search.num_trials,
                    len(done),
                    counts.count("pruned"),
                    counts.count("diverged"),
                    is_over,
                    arm.search.seeds,
                    picked,
                    100 * best.value if best else None,
                    {name: end for name, end in ends.items() if end},
                    [{**one.proposal.settings, "status": one.status, "accuracy": 100 * one.value} for one in done],
                    [trial.fingerprint for one in known[key] for trial in one.proposal.trials],
                )
            )
    return found
