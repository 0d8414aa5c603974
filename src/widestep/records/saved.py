"""Which states lie among a run's checkpoints, by name alone: `step-0000840.safetensors` is the state after 840 steps."""

import os
import re
from pathlib import Path

ANY_SAVED = ".saved"
"""An empty file beside the states, once one was saved: states that are gone are told from states that never were."""
_NAME = re.compile(r"step-(\d{7,18})\.safetensors")


def path_of_step(directory: Path, step: int) -> Path:
    """Return where the state after `step` steps is saved."""
    return directory / f"step-{step:07}.safetensors"


def saved_steps(directory: Path) -> list[int]:
    """Return the steps whose states lie in a directory of checkpoints, the newest first; none when there is no such place.

    What is damaged is among them until somebody reads it and sets it aside.
    """
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    steps = (int(match[1]) for name in names if (match := _NAME.fullmatch(name)))
    return sorted((step for step in steps if path_of_step(directory, step).name in names), reverse=True)


def ever_saved(directory: Path) -> bool:
    """Say whether a state was ever saved in a directory of checkpoints, though it may be gone."""
    return (directory / ANY_SAVED).exists() or bool(saved_steps(directory))
