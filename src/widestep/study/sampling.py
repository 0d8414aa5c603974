"""What to try next: Optuna's tree-structured Parzen estimator, asked in memory.

Optuna keeps nothing here. Its study is rebuilt from what was tried, and the sampler's seed follows from the proposal's
number, so the same outcomes give the same proposals in every process.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from widestep.errors import EnvironmentFault
from widestep.study.search import Dimension, Settings

_ATTEMPTS = 64
"""To draw a setting that was not tried yet, before there is taken to be none."""
_MOST_RANDOM = 10


@dataclass(frozen=True)
class Tried:
    """A setting that was tried, and its value to the search: mean final accuracy over seeds, in [0, 1].

    Parameters
    ----------
    epoch
        Of a setting that was given up, when; its value is that of what its runs had come to. None for all others.
    """

    settings: Settings
    value: float
    epoch: float | None = None


def require_optuna() -> None:
    """Refuse to search where Optuna is not installed; raises EnvironmentFault."""
    if find_spec("optuna") is None:
        raise EnvironmentFault("A search needs the package optuna. It is not installed; pip install 'widestep[search]'.")


def ask(
    name: str,
    dimensions: Sequence[Dimension],
    tried: Sequence[Tried],
    num_wanted: int,
    num_trials: int,
    is_new: Callable[[Settings], bool],
) -> list[Settings]:
    """Return settings to try next, different from one another; fewer when none are left.

    Parameters
    ----------
    name
        Of what is searched: the sampler's seed follows from it and the proposal's number.
    num_trials
        Of the whole search: a third, at most 10, is drawn at random before outcomes count.
    is_new
        Says whether a setting makes a recipe that was not proposed before.

    Raises
    ------
    EnvironmentFault
        When Optuna is not installed.
    """
    require_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ranges = {one.name: _distribution(one) for one in dimensions}
    earlier = [_frozen(one, dimensions, ranges) for one in tried]
    found: list[Settings] = []
    for number in range(len(tried), len(tried) + num_wanted):
        for attempt in range(_ATTEMPTS):
            seed = int(hashlib.sha256(f"{name}/{number}/{attempt}".encode()).hexdigest()[:8], 16)
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(_MOST_RANDOM, -(-num_trials // 3)))
            study = optuna.create_study(direction="maximize", sampler=sampler)
            study.add_trials(earlier)
            drawn = study.ask(ranges).params
            settings = {one.name: one.setting(drawn[one.name]) for one in dimensions}
            if settings not in found and is_new(settings):
                found.append(settings)
                break
    return found


def _distribution(one: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.kind == "choice":
        return CategoricalDistribution(list(range(len(one.choices))))
    if one.kind == "whole":
        return IntDistribution(int(one.low), int(one.high), log=one.is_log)
    return FloatDistribution(one.low, one.high, log=one.is_log)


def _frozen(tried: Tried, dimensions: Sequence[Dimension], ranges: dict[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    drawn = {one: one.drawn(tried.settings[one.name]) for one in dimensions}
    params = {one.name: value if one.kind == "number" else int(value) for one, value in drawn.items()}
    if tried.epoch is None:
        return create_trial(params=params, distributions=ranges, value=tried.value)
    return create_trial(
        params=params,
        distributions=ranges,
        state=TrialState.PRUNED,
        intermediate_values={round(tried.epoch): tried.value},
    )
