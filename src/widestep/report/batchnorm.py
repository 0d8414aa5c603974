"""The same weights evaluated with every kind of batch-norm statistics: accuracies, and paired differences to the mean's."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from widestep.errors import StoreError
from widestep.plan.plain import plain
from widestep.plan.recipe import RunningPolicy
from widestep.records.reading import read_record
from widestep.report.page import Table, interval_text, signed
from widestep.report.results import StudyResults
from widestep.report.statistics import Estimate, mean_interval

FILE = "batchnorm.json"
COLUMNS = ["arm", "setting", "policy", "seed", "n", "num_used", "accuracy_percent", "low", "high"]
COLUMNS += ["minus_mean_points", "minus_mean_low", "minus_mean_high", "val_loss"]
_REFERENCE = "mean"

Value = str | int | float | None


@dataclass(frozen=True)
class PolicyResult:
    """One policy of batchnorm_running on a run's final weights; accuracy in percent."""

    accuracy: float
    loss: float | None


@dataclass(frozen=True)
class Policies:
    """What a run's batchnorm.json holds; `used` is the policy that its own evaluations used."""

    used: str
    results: Mapping[str, PolicyResult]


@dataclass(frozen=True)
class Group:
    """The runs of one setting by seed, in an arm or in none; `num_complete` counts those without a comparison as well."""

    arm: str
    setting: str
    runs: Mapping[int, Policies]
    num_complete: int


@dataclass(frozen=True)
class Line:
    """One policy of one setting.

    Parameters
    ----------
    accuracy
        Over the seeds, in percent.
    difference
        To the policy `mean` on the same weights, in points, over the seeds; None of `mean` itself.
    num_used
        Runs whose own evaluations used this policy.
    """

    group: Group
    policy: str
    accuracy: Estimate
    difference: Estimate | None
    num_used: int


def read_policies(directory: Path) -> Policies | None:
    """Read a run's batchnorm.json; None when the run has none.

    Raises
    ------
    StoreError
        When it is damaged.
    """
    path = directory / FILE
    try:
        record = read_record(path, "the accuracy under each policy")
        if record is None:
            return None
        found = {plain(name): _result(values) for name, values in record["policies"].items()}
        return Policies(plain(record["evaluated_with"]), found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} holds the accuracy under each policy. It is damaged: {error!r}.") from None


def _result(values: Mapping[str, float | None]) -> PolicyResult:
    share, loss = values["val_accuracy"], values["val_loss"]
    if share is None or not 0 <= share <= 1:
        raise ValueError(f"val_accuracy is {share}")
    return PolicyResult(100.0 * share, None if loss is None or not math.isfinite(loss) else float(loss))


def study_groups(results: StudyResults) -> list[Group]:
    """Return the settings of a study whose complete runs compared the policies."""
    groups = []
    for arm, cells in results.arms.items():
        for cell in cells:
            places = {seed: results.directory / "trials" / cell.cell.fingerprint(seed) for seed in cell.complete}
            groups.append(group(plain(arm), cell.label, places))
    return [one for one in groups if one.runs]


def group(arm: str, setting: str, complete: Mapping[int, Path]) -> Group:
    """Read the complete runs of one setting, given by seed; a damaged file counts as none."""
    runs = {}
    for seed, directory in complete.items():
        try:
            found = read_policies(directory)
        except StoreError:
            found = None
        if found is not None:
            runs[seed] = found
    return Group(arm, setting, runs, len(complete))


def lines(groups: Iterable[Group], level: float) -> list[Line]:
    """Return the statistics of every policy in every setting, policies in the order of the recipe's documentation."""
    known = get_args(RunningPolicy)
    found = []
    for one in groups:
        names = {name for run in one.runs.values() for name in run.results}
        for policy in sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name)):
            found.append(_line(one, policy, level))
    return found


def _line(of: Group, policy: str, level: float) -> Line:
    runs = [run for run in of.runs.values() if policy in run.results]
    accuracies = [run.results[policy].accuracy for run in runs]
    pairs = [_difference(run, policy) for run in runs if policy != _REFERENCE and _REFERENCE in run.results]
    return Line(
        group=of,
        policy=policy,
        accuracy=mean_interval(accuracies, level),
        difference=mean_interval(pairs, level) if pairs else None,
        num_used=sum(run.used == policy for run in runs),
    )


def _difference(run: Policies, policy: str) -> float:
    return run.results[policy].accuracy - run.results[_REFERENCE].accuracy


def batchnorm_table(groups: Sequence[Group], level: float) -> Table:
    """Return the table of the page; it has no rows when no run compared the policies."""
    shown, rows = lines(groups, level), []
    named = any(one.arm for one in groups)
    for one in shown:
        low, high, n = one.accuracy.low, one.accuracy.high, one.accuracy.n
        used = {0: "", n: "yes"}.get(one.num_used, f"{one.num_used} of {n}")
        names = [*([one.group.arm] if named else []), one.group.setting, one.policy, used]
        ends = "" if low is None else f"[{low:.2f}, {high:.2f}]"
        rows.append([*names, str(n), f"{one.accuracy.mean:.2f}", ends, *_difference_words(one)])
    headers = [*(["arm"] if named else []), "setting", "policy", "used by the runs"]
    first_number = len(headers)
    headers += ["n", "accuracy %", "interval", "minus mean", "interval"]
    missing = sum(one.num_complete - len(one.runs) for one in groups)
    single = "" if any(one.accuracy.n > 1 for one in shown) else ", which one seed does not have"
    words = (
        "The same final weights, evaluated with each kind of statistics of batchnorm_running. Minus mean: the difference to "
        "the policy mean on the same weights, in points, paired by seed. Intervals are t-intervals at "
        f"{100 * level:g} % over seeds{single}."
    )
    words += f" {missing} complete run(s) of these settings have no usable {FILE} and are left out." if missing else ""
    return Table("Batch-norm statistics", headers, rows, f"{words} As a file: batchnorm.csv.", first_number)


def _difference_words(one: Line) -> list[str]:
    if one.difference is None:
        return ["–", ""]
    fewer = f" (n = {one.difference.n})" if one.difference.n != one.accuracy.n else ""
    return [signed(one.difference.mean) + fewer, interval_text((one.difference.low, one.difference.high))]


def batchnorm_rows(groups: Sequence[Group], level: float) -> list[list[Value]]:
    """Return the table's numbers and those of every run, for CSV, under `COLUMNS`."""
    rows: list[list[Value]] = []
    for one in lines(groups, level):
        names: list[Value] = [one.group.arm, one.group.setting, one.policy]
        rows.append([*names, "all", one.accuracy.n, one.num_used, *_ends(one.accuracy), *_ends(one.difference), None])
        for seed, run in one.group.runs.items():
            found = run.results.get(one.policy)
            if found is None:
                continue
            paired = one.policy != _REFERENCE and _REFERENCE in run.results
            difference = _difference(run, one.policy) if paired else None
            single: list[Value] = [found.accuracy, None, None, difference, None, None, found.loss]
            rows.append([*names, seed, 1, int(run.used == one.policy), *single])
    return rows


def _ends(estimate: Estimate | None) -> list[Value]:
    return [None, None, None] if estimate is None else [estimate.mean, estimate.low, estimate.high]
