"""What was changed in a study's definition after some of its trials had an outcome: allowed, written down, and told."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from widestep.errors import StoreError
from widestep.lines import LineFile, read_json_lines
from widestep.study.study import Study

FILE = "amendments.jsonl"
"""In the study's directory; absent while nothing was changed."""


@dataclass(frozen=True)
class Amendment:
    """One change of the definition; the field names are those of amendments.jsonl.

    Parameters
    ----------
    num_finished
        Trials that had an outcome by then.
    changes
        What was added or taken away, in words.
    added_claims
        Claims that were declared only now.
    changed_claims
        Claims whose arms have other settings since.
    """

    time: str
    num_finished: int
    changes: list[str]
    added_claims: list[str]
    changed_claims: list[str]

    @property
    def sentence(self) -> str:
        """The amendment in a sentence."""
        trials = "trial" if self.num_finished == 1 else "trials"
        return (
            f"Changed on {self.time[:10]}, after {self.num_finished:,} {trials} had an outcome: {'; '.join(self.changes)}."
        )


def changed_question(old: Study, new: Study) -> list[str]:
    """Name what may not change once a trial has an outcome: margin, level, and claims that were declared before."""
    changed = [name for name in ("margin", "level") if getattr(old, name) != getattr(new, name)]
    return changed + ["claims"] * any(new.claims.get(name) != claim for name, claim in old.claims.items())


def amendment(old: Study, new: Study, num_finished: int) -> Amendment | None:
    """Return how a definition was changed, or None when nothing that runs or is judged has."""
    changes = _difference("seed", list(map(str, old.seeds)), list(map(str, new.seeds)))
    changes += _difference("arm", list(old.arms), list(new.arms))
    moved = [name for name in old.arms if name in new.arms and _settings(old, name) != _settings(new, name)]
    changes += [f"the settings of arm {name}" for name in moved]
    added = [name for name in new.claims if name not in old.claims]
    changes += [f"claim {name} added" for name in added]
    if not changes:
        return None
    touched = [name for name, claim in old.claims.items() if set(claim.arms) & set(moved)]
    return Amendment(datetime.now(UTC).isoformat(timespec="seconds"), num_finished, changes, added, touched)


def _settings(study: Study, arm: str) -> list[str]:
    return [cell.fingerprint(0) for cell in study.cells(arm)]


def _difference(kind: str, old: list[str], new: list[str]) -> list[str]:
    found = []
    for word, names in (
        ("added", [name for name in new if name not in old]),
        ("left out", [name for name in old if name not in new]),
    ):
        if names:
            found.append(f"{kind}{'s' if names[1:] else ''} {', '.join(names)} {word}")
    return found


def write_amendment(directory: Path, found: Amendment) -> None:
    """Append to amendments.jsonl, durably; raises EnvironmentFault when that cannot be."""
    file = LineFile(directory / FILE)
    try:
        file.append(json.dumps(asdict(found)))
        file.sync()
    finally:
        file.close()


def read_amendments(directory: Path) -> list[Amendment]:
    """Return what was changed in a study so far, oldest first.

    Raises
    ------
    StoreError
        When amendments.jsonl is damaged.
    """
    try:
        return [_checked(record) for record in read_json_lines(directory / FILE)]
    except (OSError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise StoreError(f"{directory / FILE} must hold the changes of a study. It is damaged: {error}.") from None


_KINDS: dict[str, Callable[[Any], bool]] = {
    "time": lambda value: isinstance(value, str),
    "num_finished": lambda value: type(value) is int and value >= 0,
    **dict.fromkeys(
        ("changes", "added_claims", "changed_claims"),
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    ),
}


def _checked(record: dict[str, Any]) -> Amendment:
    if record.keys() != _KINDS.keys() or not all(fits(record[name]) for name, fits in _KINDS.items()):
        raise ValueError("a record is none of a change")
    return Amendment(**record)
