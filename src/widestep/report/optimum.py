"""The best warmup: per arm with a bootstrap interval over seeds, and per seed for the claim that it grows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from widestep.plan.duration import Duration
from widestep.plan.plain import plain
from widestep.report.results import CellResults, Diverged, SeedRun, StudyResults, setting_number
from widestep.report.statistics import FEWEST_FOR_BOOTSTRAP, draws
from widestep.study.study import in_words


@dataclass(frozen=True)
class BestWarmup:
    """The warmup with the highest mean accuracy of one arm, in both units.

    `epochs` and `steps` are None before two values have results; intervals need two seeds.
    """

    arm: str
    label: str
    global_batch: int
    n: int
    epochs: float | None = None
    steps: int | None = None
    epochs_interval: tuple[float, float] | None = None
    steps_interval: tuple[int, int] | None = None
    at_edge: bool = False

    @property
    def is_rough(self) -> bool:
        """Whether the interval rests on few seeds."""
        return self.n < FEWEST_FOR_BOOTSTRAP


def warmup_groups(results: StudyResults) -> list[tuple[str, str, list[CellResults]]]:
    """Return (arm, label, cells) of every arm with a warmup axis, one for each combination of its other axes."""
    found = []
    for arm, cells in results.arms.items():
        axes = results.study.axes(arm)
        if len(axes.get("warmup", [])) < 2:
            continue
        groups: dict[str, list[CellResults]] = {}
        for cell in cells:
            others = in_words({name: value for name, value in cell.cell.settings.items() if name != "warmup"})
            groups.setdefault(others, []).append(cell)
        about = results.study.arms[arm].label or arm
        found += [(arm, plain(f"{about} ({others})" if others else about), group) for others, group in groups.items()]
    return found


def best_warmups(results: StudyResults) -> list[BestWarmup]:
    """Return the best warmup of every arm that has a warmup axis, one line for each combination of its other axes."""
    return [_best_warmup(arm, label, cells, results.study.level) for arm, label, cells in warmup_groups(results)]


def warmup_lengths(cells: list[CellResults]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the warmups of cells in epochs and in steps, each of shape (num_cells,); None before a run is complete."""
    known = [cell.steps_per_epoch for cell in cells if cell.steps_per_epoch is not None]
    if not known:
        return None
    batch = cells[0].cell.recipe.grid.global_batch
    lengths = [Duration.parse(cell.cell.recipe.warmup) for cell in cells]
    epochs, steps = (
        np.array([float(count(known[0], batch)) for count in counts])
        for counts in ([length.epochs for length in lengths], [length.steps for length in lengths])
    )
    return epochs, steps


def _best_warmup(arm: str, label: str, cells: list[CellResults], level: float) -> BestWarmup:
    batch = cells[0].cell.recipe.grid.global_batch
    seeds = finished_seeds(cells)
    lengths = warmup_lengths(cells)
    if not seeds or lengths is None:
        return BestWarmup(arm, label, batch, len(seeds))
    epochs, steps = lengths
    accuracy = accuracy_table(cells, seeds)
    best = int(accuracy.mean(axis=0).argmax())
    found = BestWarmup(
        arm, label, batch, len(seeds), float(epochs[best]), int(steps[best]), at_edge=bool(steps[best] == steps.max())
    )
    if len(seeds) < 2:
        return found
    low, high = bootstrap_best(accuracy, epochs, level), bootstrap_best(accuracy, steps, level)
    return BestWarmup(**{**vars(found), "epochs_interval": low, "steps_interval": (int(high[0]), int(high[1]))})


def bootstrap_best(accuracy: NDArray[np.float64], values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the percentile interval of the value with the highest mean accuracy, seeds drawn with replacement.

    Parameters
    ----------
    accuracy
        Shape (num_seeds, num_values); -inf for a run that diverged.
    values
        Shape (num_values,).
    """
    best = values[accuracy[draws(len(accuracy))].mean(axis=1).argmax(axis=1)]
    low, high = np.quantile(best, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)


def best_per_seed(cells: list[CellResults], axis: str) -> dict[int, float]:
    """Return each seed's best value along an axis as a number; tied values are averaged.

    The study has checked that the axis has durations, grids or numbers.
    """
    seeds = finished_seeds(cells)
    if not seeds:
        return {}
    steps = next((cell.steps_per_epoch for cell in cells if cell.steps_per_epoch is not None), None)
    values = np.array([setting_number(cell, axis, steps) for cell in cells], dtype=np.float64)
    accuracy = np.round(accuracy_table(cells, seeds), 9)
    return {seed: float(values[row == row.max()].mean()) for seed, row in zip(seeds, accuracy, strict=True)}


def finished_seeds(cells: list[CellResults]) -> list[int]:
    """Return the seeds whose run is complete or diverged in every cell, and complete in one at least."""
    rows = {seed: [cell.outcomes[seed] for cell in cells] for seed in cells[0].outcomes}
    return [
        seed
        for seed, row in rows.items()
        if all(isinstance(outcome, (SeedRun, Diverged)) for outcome in row)
        and any(isinstance(outcome, SeedRun) for outcome in row)
    ]


def accuracy_table(cells: list[CellResults], seeds: list[int]) -> NDArray[np.float64]:
    """Return accuracies in percent, shape (num_seeds, num_cells); a diverged run is -inf, so it is never the best."""
    runs = [cell.complete for cell in cells]
    return np.array([[one[seed].accuracy if seed in one else -np.inf for one in runs] for seed in seeds])
