"""Studies that add seeds until their claims are decided: the looks that a study declares, and those that were taken.

A look judges the claims by the seeds that have run so far. Settings that an open claim compares then get the next seeds, all
others get none. Each look is a file of its own, `looks/1.json` and so on, written as a whole once all of its trials have an
outcome. What it says follows from these outcomes alone, so it does not matter who takes it, and a study that was killed
goes on from the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from widestep.errors import StoreError, UsageError
from widestep.files import explained, write_json
from widestep.plan.fields import Fields
from widestep.records.reading import read_record

if TYPE_CHECKING:
    from widestep.study.study import Cell, Study

FOLDER = "looks"
"""In the study's directory; absent while no look was taken."""


class Sequential(Fields):
    """When a study looks at its claims, and how it shares its error rate among the looks."""

    first: int = Field(default=4, ge=2)
    """Seeds that every setting runs with before the first look."""
    step: int = Field(default=2, ge=1)
    """Seeds that are added between two looks."""
    spending: Literal["obrien-fleming", "pocock"] = "obrien-fleming"
    """How the error rate is spent: `obrien-fleming` keeps nearly all of it for the last look, so early decisions need large
    effects; `pocock` spends it evenly, which decides earlier and sees a little less at the end."""

    def counts(self, num_seeds: int) -> list[int]:
        """Return the number of seeds at each look, the last with all of them.

        Examples
        --------
        >>> Sequential().counts(12), Sequential(first=4, step=3).counts(12), Sequential().counts(3)
        ([4, 6, 8, 10, 12], [4, 7, 10, 12], [3])
        """
        return [*range(min(self.first, num_seeds), num_seeds, self.step), num_seeds]


@dataclass(frozen=True)
class Look:
    """One look; the field names are those of its file.

    Parameters
    ----------
    look, seeds
        Its number, from 1, and how many of the study's seeds it judges.
    verdicts
        Verdict of each claim; what is no longer undecided stays as it is.
    wanted
        Seeds that each setting runs with from now on, by the fingerprint of its recipe with seed 0.
    """

    look: int
    seeds: int
    verdicts: dict[str, str]
    wanted: dict[str, int]

    @property
    def open(self) -> list[str]:
        """The claims that are still undecided."""
        return [name for name, verdict in self.verdicts.items() if verdict == "undecided"]


def read_looks(directory: Path, study: "Study") -> list[Look]:
    """Return the looks that were taken in a study's directory so far; none in a study that is not sequential.

    Raises
    ------
    StoreError
        When the file of a look is damaged.
    """
    found: list[Look] = []
    counts = study.sequential.counts(len(study.seeds)) if study.sequential else []
    for number, seeds in enumerate(counts, start=1):
        path = directory / FOLDER / f"{number}.json"
        record = read_record(path, "a look at a study")
        if record is None:
            break
        if not _is_look(record, number, seeds):
            raise StoreError(f"{path} must be look {number} at this study, after {seeds} seeds. It is damaged; delete it.")
        found.append(Look(**record))
    return found


def _is_look(record: dict[str, Any], number: int, seeds: int) -> bool:
    if record.keys() != {"look", "seeds", "verdicts", "wanted"} or (record["look"], record["seeds"]) != (number, seeds):
        return False
    verdicts, wanted = record["verdicts"], record["wanted"]
    return (
        isinstance(verdicts, dict)
        and isinstance(wanted, dict)
        and all(isinstance(verdict, str) for verdict in verdicts.values())
        and all(type(count) is int and count >= 0 for count in wanted.values())
    )


def write_look(directory: Path, look: Look) -> None:
    """Write a look's file; raises EnvironmentFault when that cannot be."""
    folder = directory / FOLDER
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{look.look}.json", asdict(look))


def num_wanted(study: "Study", looks: Sequence[Look], key: str) -> int:
    """Return how many of its seeds a setting runs with so far, by the fingerprint of its recipe with seed 0."""
    if study.sequential is None:
        return len(study.seeds)
    first = study.sequential.counts(len(study.seeds))[0]
    return looks[-1].wanted.get(key, first) if looks else first


def wanted_seeds(study: "Study", looks: Sequence[Look], cell: "Cell") -> list[int]:
    """Return the seeds that a setting runs with so far."""
    return study.seeds[: num_wanted(study, looks, cell.fingerprint(0))]


def is_concluded(study: "Study", looks: Sequence[Look]) -> bool:
    """Say whether no further look will be taken: every claim is decided, or all seeds have been judged."""
    if study.sequential is None:
        return True
    return bool(looks) and (not looks[-1].open or looks[-1].seeds == len(study.seeds))


def next_look(
    study: "Study", looks: Sequence[Look], verdicts: Mapping[str, str], served: Mapping[str, Sequence["Cell"]]
) -> Look:
    """Return the next look from its verdicts.

    Parameters
    ----------
    served
        The settings that each claim compares. Those of open claims get the seeds of the look after this one.
    """
    assert study.sequential is not None
    counts = study.sequential.counts(len(study.seeds))
    number = len(looks) + 1
    following = counts[min(number, len(counts) - 1)]
    keys = {cell.fingerprint(0) for arm in study.arms for cell in study.cells(arm)}
    needed = {cell.fingerprint(0) for name, verdict in verdicts.items() if verdict == "undecided" for cell in served[name]}
    wanted = {key: following if key in needed else num_wanted(study, looks, key) for key in sorted(keys)}
    return Look(number, counts[number - 1], dict(verdicts), wanted)


def num_runs(study: "Study", looks: Sequence[Look]) -> tuple[int, int]:
    """Return how many runs are wanted so far, and how many all seeds would take."""
    keys = {cell.fingerprint(0) for arm in study.arms for cell in study.cells(arm)}
    return sum(num_wanted(study, looks, key) for key in keys), len(keys) * len(study.seeds)


def check_same_design(directory: Path, old: "Study", new: "Study") -> None:
    """Refuse to go on with a study by another plan of looks once trials have an outcome.

    Raises
    ------
    UsageError
        Says how the study was begun.
    """
    if old.sequential is None and new.sequential is None:
        return
    if _design(old) == _design(new) or not any((directory / "trials").glob("*/result.json")):
        return
    if old.sequential is None:
        raise UsageError(
            f"How a study is judged is decided before it runs. {directory} was begun with all seeds at once and has "
            "results; leave out --until decided, or choose another --out."
        )
    if new.sequential is None:
        raise UsageError(
            f"How a study is judged is decided before it runs. {directory} was begun with --until decided and has results; "
            "give --until decided again, or choose another --out."
        )
    raise UsageError(
        f"Looks, seeds, settings and claims of a study that runs until decided are declared before it runs. They changed "
        f"although trials in {directory} have finished; choose another --out."
    )


def _design(study: "Study") -> object:
    settings = {arm: [cell.fingerprint(0) for cell in study.cells(arm)] for arm in study.arms}
    return study.sequential, study.seeds, study.claims, settings
