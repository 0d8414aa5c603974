"""`widestep lr`: the learning rate at every step, without training and without torch."""

import json as json_module
import math
import re
from pathlib import Path

from widestep.cli.options import request
from widestep.data.facts import describe
from widestep.errors import UsageError
from widestep.files import explained, write_atomically
from widestep.plan.runplan import RunPlan

_MOST_RATES = 1_000_000


def lr(
    *, recipe: str = "digits", steps: str | None = None, plot: Path | None = None, json: bool = False, **fields: str
) -> int:
    """Print or plot the learning rate of a recipe at every step, without training.

    For example:
      widestep lr --recipe poster --grid 40x6x128 --warmup 10ep --steps 0:5
      widestep lr --recipe digits --grid 40x1x8 --plot rate.svg
      widestep lr --recipe poster --json

    Parameters
    ----------
    recipe
        Name of a shipped recipe, or a TOML file.
    steps
        FIRST:LAST limits the list to steps FIRST up to but not including LAST.
    plot
        Draw the rate into this file (.svg or .png) instead of printing it.
    json
        Print as JSON.
    fields
        Recipe fields by name, as in `widestep train`.
    """
    wanted = request(recipe, fields).recipe
    facts = describe(wanted.data, train_images=wanted.train_images, image_size=wanted.image_size)
    plan = RunPlan(wanted, facts.num_train)
    first, last = _range(steps, plan.total_steps)
    rates = [plan.lr(step) for step in range(first, last)]
    if plot is not None:
        _draw(plot, plan, range(first, last), rates)
        print(plot)
        return 0
    adaptive = wanted.scaling == "adascale"
    derivation = wanted.rule.derivation(wanted.base_lr, wanted.grid)
    if json:
        record = {"steps_per_epoch": plan.steps_per_epoch, "steps": plan.total_steps, "lr": rates, "derivation": derivation}
        if adaptive:
            record["largest_gain"] = wanted.grid.num_workers
        print(json_module.dumps(record))
        return 0
    for line in plan.describe():
        print(line)
    if adaptive:
        print(f"\nProgress in steps of one worker; a step's rate is this times its gain, 1 to {wanted.grid.num_workers}:")
    print(f"\n{'step':>8} {'epoch':>9}  rate")
    for step, rate in zip(range(first, last), rates, strict=True):
        print(f"{step:>8} {plan.schedule_epochs_after(step):>9.3f}  {rate!r}")
    return 0


def _range(steps: str | None, total: int) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{0,15}):([0-9]{0,15})", ":" if steps is None else steps)
    first, last = (int(match[1] or 0), min(int(match[2] or total), total)) if match else (0, 0)
    if first >= last:
        raise UsageError(f"--steps reads FIRST:LAST within 0:{total}, for example 0:100. Got {steps!r}.")
    if last - first > _MOST_RATES:
        raise UsageError(
            f"At most {_MOST_RATES:,} rates are listed at a time. Training takes {total:,} steps; choose with --steps "
            "FIRST:LAST."
        )
    return first, last


def _draw(path: Path, plan: RunPlan, steps: range, rates: list[float]) -> None:
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"A picture is an .svg or .png file. Got --plot {path}.")
    from widestep.report.drawing import draw
    from widestep.report.plotted import FigureData, Series

    nothing = [math.nan] * len(steps)
    epochs = [plan.schedule_epochs_after(step) for step in steps]
    series = Series(str(plan.recipe.grid), epochs, rates, nothing, nothing, [1] * len(steps), 1)
    drawing = draw(FigureData(1, "curves", "Learning rate by epoch", "", "epoch", "learning rate", [series]))
    with explained(path):
        write_atomically(path, drawing.svg if path.suffix == ".svg" else drawing.png)
