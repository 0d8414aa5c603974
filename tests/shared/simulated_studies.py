"""Studies that ran nowhere: results put together from numbers, as the report would have read them from disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from widestep.report.results import CellResults, Curves, Diverged, SeedRun, StudyResults
from widestep.study.study import Cell, Study

NOTHING = np.zeros(0)
CURVES = Curves(NOTHING, NOTHING, NOTHING)
"""What a run recorded after its epochs: nothing, as no test of a final accuracy looks at it."""


class Simulator:
    """Makes results of a study again and again; its cells are built once.

    Parameters
    ----------
    steps_per_epoch
        What the runs would have recorded; needed where warmups are counted in steps.
    """

    def __init__(self, study: Study, steps_per_epoch: Callable[[Cell], int] = lambda cell: 12) -> None:
        self.study = study
        self.cells = {arm: study.cells(arm) for arm in study.arms}
        self._steps = steps_per_epoch

    def results(self, accuracies: dict[str, np.ndarray]) -> StudyResults:
        """Return results with these final accuracies in percent by arm, shape (num_cells, num_seeds); NaN diverged."""
        arms = {}
        for arm, cells in self.cells.items():
            arms[arm] = [
                CellResults(
                    cell,
                    {
                        seed: Diverged("the loss is not finite")
                        if np.isnan(value)
                        else SeedRun(seed, value, value, value, self._steps(cell), CURVES)
                        for seed, value in zip(self.study.seeds, row.tolist(), strict=True)
                    },
                    self.study.collapse_below,
                )
                for cell, row in zip(cells, accuracies[arm], strict=True)
            ]
        return StudyResults(self.study, Path(), arms, {}, {})
