"""Reading small JSON records that others may have damaged, swapped or written on purpose."""

import json
from pathlib import Path
from typing import Any

from widestep.errors import StoreError

_LARGEST = 1_000_000


def read_record(path: Path, what: str) -> dict[str, Any] | None:
    """Read a file that holds one JSON object; None when there is no such file.

    Parameters
    ----------
    what
        What it should be, for the message: "a run's result".

    Raises
    ------
    StoreError
        When it cannot be read, is larger than 1 MB or holds anything else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} must be {what}. It cannot be read: {error.strerror}.") from None
    try:
        found = json.loads(content) if len(content) <= _LARGEST else None
    except RecursionError:
        raise StoreError(f"{path} must be {what}. It is damaged: nested too deeply.") from None
    except ValueError as error:
        raise StoreError(f"{path} must be {what}. It is damaged: {error}.") from None
    if not isinstance(found, dict):
        said = "it holds no named values" if len(content) <= _LARGEST else f"it has more than {_LARGEST:,} bytes"
        raise StoreError(f"{path} must be {what}. It is damaged: {said}.")
    return found
