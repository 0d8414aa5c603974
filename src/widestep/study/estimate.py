"""How long a study will take: counted exactly in steps and images, turned into time by speeds whose origin is said.

What takes time is a stack of trials: it costs the same with all its slots taken as with one. So stacks are predicted one by
one, each from what is known of its shape (`Recipe.stack_key`), and laid out over the jobs, the longest first.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from statistics import fmean

from widestep.data.facts import DataFacts, describe
from widestep.plan.runplan import RunPlan
from widestep.records.result import RunResult
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import saved_step, stacks

# Training images a second of one core, those of all slots of a stack, evaluation included. Measured with the shipped
# studies: digits-resnet in stacks of 12 on one core of an AMD EPYC (Zen 5); resnet50 at 224 pixels likewise, single.
MEASURED_SPEED = {"digits-resnet": 25_000.0, "resnet50": 4.0}

_START_SECONDS = 4.0
"""Of a worker process until it takes its first stack: reading torch, above all."""


def data_facts(trials: Iterable[Trial]) -> dict[str, DataFacts]:
    """Return the facts of every trial's data by its fingerprint; a data set is only looked at, once, and not loaded.

    Raises
    ------
    UsageError, DataError
        When a data set is unknown or its folder is not as it must be.
    """
    known: dict[tuple[str, int | None, int | None], DataFacts] = {}
    found = {}
    for trial in trials:
        recipe = trial.recipe
        key = recipe.data, recipe.train_images, recipe.image_size
        if key not in known:
            known[key] = describe(key[0], train_images=key[1], image_size=key[2])
        found[trial.fingerprint] = known[key]
    return found


def plans(trials: Sequence[Trial], facts: Mapping[str, DataFacts] | None = None) -> dict[str, RunPlan]:
    """Return the plan of every trial by fingerprint; raises what `data_facts` raises, which is asked without `facts`."""
    facts = data_facts(trials) if facts is None else facts
    return {trial.fingerprint: RunPlan(trial.recipe, facts[trial.fingerprint].num_train) for trial in trials}


@dataclass(frozen=True)
class ShapeCost:
    """What a stack of one shape costs.

    Parameters
    ----------
    start, step, evaluation
        Seconds until the first step, of a step, and of an evaluation (0 where steps have them in their share).
    """

    start: float
    step: float
    evaluation: float

    def seconds(self, plan: RunPlan, first_step: int = 0) -> float:
        """Return the seconds that a stack takes from a step to its end."""
        left = plan.total_steps - first_step
        return self.start + self.step * left + self.evaluation * plan.num_evaluations * _share(plan, first_step)


@dataclass(frozen=True)
class Estimate:
    """Predicted seconds with the basis of the prediction, or no seconds when nothing is known.

    Parameters
    ----------
    num_images, num_steps
        Of the trials that are left, from where they are.
    num_stacks
        In which these trials are computed.
    seconds
        By the clock, with so many jobs at a time.
    of_trial
        Seconds of a job that each trial takes: its share of its stack.
    lasting
        Seconds from the beginning of each trial to its end: those of its stack.
    """

    num_images: int
    num_steps: int
    num_stacks: int
    seconds: float | None
    basis: str
    of_trial: dict[str, float] = field(default_factory=dict)
    lasting: dict[str, float] = field(default_factory=dict)


def estimate(
    store: StudyStore,
    run_plans: Mapping[str, RunPlan],
    num_jobs: int,
    *,
    images_per_second: float | None = None,
    probed: Mapping[str, ShapeCost] | None = None,
) -> Estimate:
    """Predict the time for what is left of a study.

    Parameters
    ----------
    num_jobs
        Stacks computed at a time.
    images_per_second
        Of one job, all trials of its stack together, when the user knows it better.
    probed
        What was measured of shapes (`Recipe.stack_key`) just now.
    """
    left = [state.trial for state in store.states() if not state.finished]
    groups = stacks(left, store)
    first = {trial.fingerprint: saved_step(store, trial) for trial in left}
    num_steps = sum(run_plans[name].total_steps - step for name, step in first.items())
    num_images = round(sum(_share(run_plans[name], step) * run_plans[name].total_images for name, step in first.items()))
    if images_per_second is not None:
        seconds = [sum(_images(run_plans, one, first) for one in group) / images_per_second for group in groups]
        basis, starting = "the speed given", 0.0
    else:
        finished = finished_costs(store, run_plans)
        predicted, basis = _predicted(groups, run_plans, first, finished, {**(probed or {}), **finished})
        if predicted is None:
            return Estimate(num_images, num_steps, len(groups), None, basis)
        seconds, starting = predicted, _START_SECONDS if groups else 0.0
    lasting = {trial.fingerprint: one for one, group in zip(seconds, groups, strict=True) for trial in group}
    of_trial = {trial.fingerprint: lasting[trial.fingerprint] / len(group) for group in groups for trial in group}
    return Estimate(num_images, num_steps, len(groups), starting + makespan(seconds, num_jobs), basis, of_trial, lasting)


def _share(plan: RunPlan, first_step: int) -> float:
    return 1 - first_step / max(1, plan.total_steps)


def _images(run_plans: Mapping[str, RunPlan], trial: Trial, first: Mapping[str, int]) -> float:
    plan = run_plans[trial.fingerprint]
    return _share(plan, first[trial.fingerprint]) * plan.total_images


def makespan(seconds: Sequence[float], num_jobs: int) -> float:
    """Return when the last of some tasks ends that take so many seconds, `num_jobs` at a time, the longest first."""
    ends = [0.0] * num_jobs
    for one in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def finished_costs(store: StudyStore, run_plans: Mapping[str, RunPlan]) -> dict[str, ShapeCost]:
    """Return what each shape cost whose trials have an outcome: the mean over those that nothing interrupted."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for result in store.results():
        plan = run_plans.get(result.recipe_fingerprint)  # none of what a search has proposed since the plans were made
        if plan is not None and result.steps and not result.interruptions and _tells(result, plan):
            found[plan.recipe.stack_key].append(_seconds_a_step(result, plan))
    return {shape: ShapeCost(0.0, fmean(seconds), 0.0) for shape, seconds in found.items()}


def _tells(result: RunResult, plan: RunPlan) -> bool:
    """Say whether a run's time tells that of others: under AdaScale one that diverged does not say how long they are."""
    return plan.recipe.scaling != "adascale" or result.status == "complete"


def _seconds_a_step(result: RunResult, plan: RunPlan) -> float:
    """Return the seconds for every planned step: under AdaScale, for every one of the most there could have been."""
    return result.wall_seconds / (plan.total_steps if plan.recipe.scaling == "adascale" else result.steps)


def _predicted(
    groups: Sequence[Sequence[Trial]],
    run_plans: Mapping[str, RunPlan],
    first: Mapping[str, int],
    finished: Mapping[str, ShapeCost],
    costs: Mapping[str, ShapeCost],
) -> tuple[list[float] | None, str]:
    """Return the seconds of each stack, and what they are based on; shapes that nothing is known of follow from others."""
    speeds = _speeds(costs, run_plans)
    seconds = []
    for group in groups:
        trial = group[0]
        plan, first_step, model = run_plans[trial.fingerprint], first[trial.fingerprint], trial.recipe.model
        if trial.recipe.stack_key in costs:
            seconds.append(costs[trial.recipe.stack_key].seconds(plan, first_step))
        elif model in speeds:
            seconds.append(_share(plan, first_step) * _images_of_stack(plan) / speeds[model])
        else:
            return None, f"not measured for {model}; give --probe or --images-per-second"
    return seconds, _basis(groups, finished.keys(), costs.keys())


def _images_of_stack(plan: RunPlan) -> int:
    """Return the training images that a stack computes, those of empty slots included."""
    return plan.total_images * plan.recipe.stack


def _speeds(costs: Mapping[str, ShapeCost], run_plans: Mapping[str, RunPlan]) -> dict[str, float]:
    """Return images a second by model: as measured here where one of its shapes is known, else as shipped."""
    images: defaultdict[str, float] = defaultdict(float)
    seconds: defaultdict[str, float] = defaultdict(float)
    seen = set()
    for plan in run_plans.values():
        shape = plan.recipe.stack_key
        if shape in costs and shape not in seen and plan.recipe.scaling != "adascale":  # which sees fewer than planned
            seen.add(shape)
            images[plan.recipe.model] += _images_of_stack(plan)
            seconds[plan.recipe.model] += costs[shape].seconds(plan)
    return MEASURED_SPEED | {model: images[model] / seconds[model] for model in images if seconds[model]}


def _basis(groups: Sequence[Sequence[Trial]], finished: Set[str], known: Set[str]) -> str:
    shapes = {group[0].recipe.stack_key for group in groups}
    if not shapes:
        return "nothing is left to run"
    if not shapes & known:
        models = {group[0].recipe.model for group in groups}
        return f"{_basis_of_table(models)} of one core of an AMD EPYC; yours will differ"
    origins = [("the trials finished so far", shapes & finished), ("a probe", shapes & known - finished)]
    words = " and ".join(word for word, some in origins if some)
    num_others = len(shapes - known)
    return f"{words}; {num_others} of {len(shapes)} kinds of stack by their images" if num_others else words


def _basis_of_table(models: Set[str]) -> str:
    return ", ".join(f"{speed:,.0f} images/s" for model, speed in MEASURED_SPEED.items() if model in models)
