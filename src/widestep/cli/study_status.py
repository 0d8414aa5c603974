"""`widestep study status`: every trial, its state and why; and what a study comes to."""

import json as json_module
from collections.abc import Sequence
from pathlib import Path

from widestep.cli.progress import name_of, say
from widestep.cli.study_looks import look_lines
from widestep.cli.study_search import search_lines
from widestep.plan.plain import plain
from widestep.study.audit import audit, recipe_key
from widestep.study.coincidence import Statement
from widestep.study.progress import TrialProgress, bytes_to_audit, progress_of
from widestep.study.searching import summaries
from widestep.study.store import StudyStore, TrialState
from widestep.study.study import as_written

_MOST_SAID = 5
_MOST_AUDITED = 16 << 20
"""Bytes of ledgers that are audited while somebody waits for a table."""


def status(directory: Path = Path("studies/poster-digits"), *, json: bool = False) -> int:
    """Show every trial of a study: state, accuracy or progress, log and reason.

    It changes nothing and may be asked at any time, also while others run the study.

    For example:
      widestep study status studies/poster-digits
      widestep study status studies/poster-digits --json

    Parameters
    ----------
    directory
        Directory of the study.
    json
        Print as JSON.
    """
    store = StudyStore.open(directory)
    states = store.states()
    rows = [progress_of(state) for state in states]
    large = bytes_to_audit(store) > _MOST_AUDITED
    found = [] if large else audit(store).found
    if json:
        print(json_module.dumps([_record(row, found) for row in rows], indent=2))
    else:
        for row in rows:
            print(_line(row))
        counts = {status: sum(state.status == status for state in states) for status in {state.status for state in states}}
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
        for line in [*look_lines(store.looks()), *search_lines(summaries(store))]:
            print(plain(line))
    if large:
        say("audit      is left to the report: the ledgers of this study are large")
    say_audit(found)
    return exit_code_of(states, store.is_concluded())


def _line(row: TrialProgress) -> str:
    state = row.state
    since = f"since {row.since[:16].replace('T', ' ')}" if row.since and state.status == "running" else ""
    words = " ".join(filter(None, [str(row.log or state.job_log or state.directory), since, state.reason]))
    place = f"seed {state.trial.seed:<4} {state.trial.arm:<14} {as_written(state.trial.settings):<24}"
    return plain(f"{state.status:<9} {_how_far(row):>11} {place} {words}".rstrip())


def _how_far(row: TrialProgress) -> str:
    if row.state.val_accuracy is not None:
        return f"{100 * row.state.val_accuracy:.2f} %"
    if row.epoch is None:
        return ""
    return f"ep {row.epoch:g}" + ("" if row.num_epochs is None else f"/{row.num_epochs:g}")


def _record(row: TrialProgress, found: Sequence[Statement]) -> dict[str, object]:
    """Return a trial's row, with what the audit found about its recipe where it found something."""
    key = recipe_key(row.state.trial.recipe)
    texts = [one.text for one in found if key in one.recipes]
    return row.as_dict() | ({"audit": texts} if texts else {})


def say_audit(found: Sequence[Statement]) -> None:
    """Say what the audit of a study found, in few lines."""
    for one in found[:_MOST_SAID]:
        say(f"audit      {one.text}")
    if len(found) > _MOST_SAID:
        say(f"audit      and {len(found) - _MOST_SAID} more; the report has all")


def exit_code_of(states: Sequence[TrialState], is_concluded: bool) -> int:
    """Say which trials failed and return the exit code of a study: 0 all complete, 75 some left, 1 some failed.

    A study that searches or runs until decided has some left until it `is_concluded`.
    """
    failed = [state for state in states if state.status == "failed"]
    for state in failed[:_MOST_SAID]:
        say(f"failed     {name_of(state.trial)} seed {state.trial.seed}: {state.reason} ({state.directory})")
    if len(failed) > _MOST_SAID:
        say(f"failed     and {len(failed) - _MOST_SAID} more; `widestep study status` lists all")
    if failed:
        return 1
    return 0 if is_concluded and all(state.finished for state in states) else 75
