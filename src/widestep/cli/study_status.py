"""`widestep study status`: every trial, its state and why; and what a study comes to."""

import json as json_module
from collections.abc import Sequence
from pathlib import Path

from widestep.cli.progress import say
from widestep.study.audit import audit, recipe_key
from widestep.study.coincidence import Statement
from widestep.study.store import StudyStore, TrialState

_MOST_SAID = 5


def status(directory: Path = Path("studies/poster-digits"), *, json: bool = False) -> int:
    """Show the state of every trial of a study, with reason and directory.

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
    states, found = store.states(), audit(store).found
    if json:
        print(json_module.dumps([_row(state, found) for state in states], indent=2))
    else:
        for state in states:
            accuracy = "" if state.val_accuracy is None else f"{100 * state.val_accuracy:.2f} %"
            settings = ", ".join(f"{name}={value}" for name, value in state.trial.settings.items())
            print(
                f"{state.status:<9} {accuracy:>8} seed {state.trial.seed:<4} {state.trial.arm:<14} {settings:<24} "
                f"{state.directory} {state.reason or ''}".rstrip()
            )
        counts = {status: sum(state.status == status for state in states) for status in {state.status for state in states}}
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    say_audit(found)
    return exit_code_of(store)


def _row(state: TrialState, found: Sequence[Statement]) -> dict[str, object]:
    """Return a trial's state, with what the audit found about its recipe where it found something."""
    key = recipe_key(state.trial.recipe)
    texts = [one.text for one in found if key in one.recipes]
    return state.as_dict() | ({"audit": texts} if texts else {})


def say_audit(found: Sequence[Statement]) -> None:
    """Say what the audit of a study found, in few lines."""
    for one in found[:_MOST_SAID]:
        say(f"audit      {one.text}")
    if len(found) > _MOST_SAID:
        say(f"audit      and {len(found) - _MOST_SAID} more; the report has all")


def exit_code_of(store: StudyStore) -> int:
    """Say which trials failed and return the exit code of a study: 0 all complete, 75 some left, 1 some failed."""
    states = store.states()
    failed = [state for state in states if state.status == "failed"]
    for state in failed[:_MOST_SAID]:
        trial = state.trial
        say(f"failed     {trial.arm} {trial.settings} seed {trial.seed}: {state.reason} ({state.directory})")
    if failed:
        return 1
    return 0 if all(state.finished for state in states) else 75
