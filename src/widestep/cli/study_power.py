"""What the seeds of a planned study can show, with the spread of its own trials, of an earlier study or of a table."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from widestep.study.store import StudyStore

if TYPE_CHECKING:
    from widestep.report.power import ClaimPower


def power_of(store: StudyStore, sd_from: Path | None) -> "list[ClaimPower]":
    """Return the power of every claim of a study.

    Parameters
    ----------
    sd_from
        Directory of an earlier study, which tells the spread where this one has too few finished trials.

    Raises
    ------
    UsageError
        When that directory holds no study.
    """
    from widestep.report.power import study_power
    from widestep.report.results import read_study

    earlier = read_study(sd_from) if sd_from is not None else None
    begun = (store.directory / "study.toml").is_file()
    return study_power(store.study, read_study(store.directory) if begun else None, earlier)


def power_lines(claims: "list[ClaimPower]", level: float, width: int = 110) -> list[str]:
    """Return the power of every claim as lines for a terminal."""
    error = f"{100 * (1 - level):.3g} %"
    lines = [f"power      shown in 80 % of studies, when {error} of studies may say anything wrong:"] if claims else []
    for claim in claims:
        words = f"{claim.claim}: {claim.sentence}"
        lines += textwrap.wrap(words, width, initial_indent=" " * 11, subsequent_indent=" " * 14)
    return lines
