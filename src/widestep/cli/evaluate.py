"""`widestep eval`: the same integers as the training log, from a checkpoint."""

import json as json_module
from pathlib import Path
from typing import Literal

from widestep.records.run import open_existing


def evaluate(
    run: Path, *, weights: Literal["final", "best", "last"] = "final", data: str | None = None, json: bool = False
) -> int:
    """Evaluate a run's weights on its validation images: exact integer counts.

    Examples:
      widestep eval runs/digits
      widestep eval runs/digits --weights best --json

    Parameters
    ----------
    run
        Directory of the run.
    weights
        Which of its checkpoints.
    data
        Another data set, for example folder:PATH.
    json
        Print as JSON.
    """
    from widestep.train.assess import assess

    opened = open_existing(run)
    found = assess(opened, weights, data)
    if json:
        print(json_module.dumps(found))
        return 0
    print(f"{100 * found['val_accuracy']:.2f} % of {found['val_images']:,} validation images ({found['val_correct']:,})")
    print(f"loss       {found['val_loss']}")
    print(f"weights    {found['weights_sha256']}")
    return 0
