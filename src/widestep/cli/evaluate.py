"""`widestep eval`: the same integers as the training log, from a checkpoint."""

import json as json_module
from pathlib import Path

from widestep.errors import UsageError
from widestep.records.run import open_existing


def evaluate(checkpoint: Path, *, data: str | None = None, json: bool = False) -> int:
    """Evaluate the weights of a checkpoint on its run's validation images, or on other data: exact integer counts.

    For example:
      widestep eval runs/digits
      widestep eval runs/digits/checkpoints/best.safetensors --json
      widestep eval runs/photos --data folder:/data/other

    Parameters
    ----------
    checkpoint
        A run's directory (its final weights), or one of the files in its checkpoints.
    data
        Evaluate on this data set instead of the recipe's.
    json
        Print as JSON: the run's result with what was found here.
    """
    if checkpoint.suffix == ".safetensors" and checkpoint.parent.name == "checkpoints":
        run, path = open_existing(checkpoint.parent.parent), checkpoint
    elif checkpoint.is_dir():
        run = open_existing(checkpoint)
        path = run.checkpoints / "final.safetensors"
    else:
        raise UsageError(f"What is evaluated is a run's directory or a file in its checkpoints. Got {checkpoint}.")
    from widestep.train.assess import assess

    found = assess(run, path, data)
    if json:
        result = run.result()
        print(json_module.dumps({**(result.as_dict() if result else {}), **found}, indent=2))
        return 0
    print(f"{100 * found['val_accuracy']:.2f} % of {found['val_images']:,} validation images ({found['val_correct']:,})")
    print(f"loss       {found['val_loss']}")
    print(f"weights    {found['weights_sha256']}")
    return 0
