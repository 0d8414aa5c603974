"""Giving a searched run up: when, and the record of it.

Whether a run is hopeless follows from its own evaluations and the complete runs of earlier proposals alone, so it does not
matter when somebody looks, nor on how many workers the search runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from widestep.errors import StoreError
from widestep.files import write_json
from widestep.records.reading import read_record
from widestep.records.run import Run

FILE = "pruned.json"
"""In the directory of a run that was given up."""
FEWEST = 4
"""Complete runs that a median is taken of."""


@dataclass(frozen=True)
class Pruned:
    """Why a run was given up; the field names are those of its file.

    Parameters
    ----------
    epoch, accuracy
        Of the first evaluation that was hopeless; a share in [0, 1].
    median, num_runs
        Of how many complete runs at the same epoch.
    """

    epoch: float
    accuracy: float
    median: float
    num_runs: int

    @property
    def words(self) -> str:
        """The reason in words."""
        return (
            f"{100 * self.accuracy:.2f} % at epoch {self.epoch:g}, below the median of {self.num_runs} earlier runs, "
            f"{100 * self.median:.2f} %"
        )


def hopeless(own: Mapping[float, float], others: Sequence[Mapping[float, float]], first_epoch: float) -> Pruned | None:
    """Return the first evaluation that lies below the median of others at the same epoch; None when there is none.

    Parameters
    ----------
    own
        Accuracy by epoch, evaluations so far.
    others
        The same of complete runs of earlier proposals.
    first_epoch
        Evaluations before it do not count.

    Examples
    --------
    >>> hopeless({2.0: 0.3}, [{2.0: value} for value in (0.2, 0.4, 0.4, 0.6)], 1.0)
    Pruned(epoch=2.0, accuracy=0.3, median=0.4, num_runs=4)
    """
    for epoch, accuracy in own.items():
        known = [other[epoch] for other in others if epoch in other]
        if epoch >= first_epoch and len(known) >= FEWEST and accuracy < median(known):
            return Pruned(epoch, accuracy, median(known), len(known))
    return None


def evaluations(run: Run) -> dict[float, float]:
    """Return a run's validation accuracy by epoch; raises StoreError when its table is damaged."""
    rows = [(row["epoch"], row["val_accuracy"]) for row in run.read_epochs()]
    return {epoch: accuracy for epoch, accuracy in rows if epoch is not None and accuracy is not None}


def read_pruned(directory: Path) -> Pruned | None:
    """Return why the run of a directory was given up; None when it was not, or its record is damaged."""
    try:
        record = read_record(directory / FILE, "why a run was given up")
    except StoreError:
        return None
    kinds = {"epoch": (int, float), "accuracy": (int, float), "median": (int, float), "num_runs": (int,)}
    if record is None or record.keys() != kinds.keys() or any(type(record[name]) not in kinds[name] for name in kinds):
        return None
    return Pruned(**record)


def write_pruned(run: Run, why: Pruned) -> None:
    """Record that a run was given up; raises EnvironmentFault when that cannot be written."""
    write_json(run.directory / FILE, asdict(why), run.fence)
