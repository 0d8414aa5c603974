"""What the command line says about the looks of a study that runs until decided."""

from collections.abc import Sequence
from typing import Any

from widestep.cli.progress import say
from widestep.study.sequential import Look
from widestep.study.store import StudyStore
from widestep.study.study import Study

_RATIOS = (0.0, 1.0, 2.0, 4.0)
"""True differences, in units of the spread of paired differences over seeds, for which runs are predicted."""


def look_on(store: StudyStore) -> bool:
    """Take the next look at a study that runs until decided, if its trials allow; say whether there is more to run."""
    if store.study.sequential is None:
        return False
    from widestep.report.sequential import take_look

    if take_look(store.directory) is None:
        num_left = sum(not state.finished for state in store.states())
        if num_left:
            say(f"look       number {len(store.looks()) + 1} waits for an outcome of every trial; {num_left} have none")
        return False
    say(look_lines(store.looks())[-1])
    return not store.is_concluded()


def look_lines(looks: Sequence[Look]) -> list[str]:
    """Return a line for each look: what it decided, and what is open."""
    lines: list[str] = []
    before: list[str] = []
    for look in looks:
        found = [name for name, verdict in look.verdicts.items() if verdict != "undecided"]
        new = [f"{name} {look.verdicts[name]}" for name in found if name not in before]
        decided = f"decided: {', '.join(new)}" if new else "nothing new decided"
        still = f"; open: {', '.join(look.open)}" if look.open else "; nothing open"
        lines.append(f"look       {look.look} after {look.seeds} seeds, {decided}{still}")
        before = found
    return lines


def looks_planned(study: Study) -> dict[str, Any] | None:
    """Return when a study that runs until decided looks, and how many runs it takes; None for any other study."""
    if study.sequential is None:
        return None
    from widestep.report.expected import expected_runs
    from widestep.study.sequential import num_runs

    counts = study.sequential.counts(len(study.seeds))
    fewest, most = num_runs(study, [])
    expected = [{"ratio": ratio, "num_runs": round(expected_runs(study, ratio), 1)} for ratio in _RATIOS]
    return {"looks": counts, "spending": study.sequential.spending, "fewest": fewest, "most": most, "expected": expected}


def planned_lines(study: Study, planned: dict[str, Any]) -> list[str]:
    """Return the same for a terminal."""
    counts = ", ".join(map(str, planned["looks"]))
    lines = [
        f"looks      after {counts} seeds, {planned['spending']} spending",
        f"trials     {planned['fewest']} before the first look, {planned['most']} with all seeds; on average about",
    ]
    for one in planned["expected"]:
        difference = f"{one['ratio']:g} times the spread of paired differences" if one["ratio"] else "zero"
        lines.append(f"           {one['num_runs']:.0f} if the true differences are {difference}")
    assert study.sequential is not None
    stack = max(cell.recipe.stack for arm in study.arms for cell in study.cells(arm))
    if stack > study.sequential.step:
        lines.append(
            f"note       {stack} runs are computed side by side; {study.sequential.step} seeds take as long as {stack}. A "
            "smaller stack, or as large a step, saves time as well as runs."
        )
    return lines
