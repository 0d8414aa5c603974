"""`widestep lr`: the learning rate at every step, without training and without torch."""

import json as json_module
from pathlib import Path

from widestep.cli.options import request
from widestep.data.facts import describe
from widestep.errors import UsageError
from widestep.plan.runplan import RunPlan


def lr(
    *, recipe: str = "digits", steps: str | None = None, plot: Path | None = None, json: bool = False, **fields: str
) -> int:
    """Print or plot the learning rate of a recipe at every step, without training.

    Examples:
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
        Draw the rate into this file (.png, .svg or .pdf) instead of printing it.
    json
        Print as JSON.
    fields
        Recipe fields by name, as in `widestep train`.
    """
    wanted = request(recipe, fields).recipe
    facts = describe(wanted.data, train_images=wanted.train_images, image_size=wanted.image_size)
    plan = RunPlan(wanted, facts.num_train)
    first, last = _range(steps, plan.total_steps)
    rates = plan.schedule.trace(first, last)
    if plot is not None:
        from widestep.report.drawing import draw_rate

        draw_rate(plot, [step / plan.steps_per_epoch for step in range(first, last)], rates, str(wanted.grid))
        print(plot)
        return 0
    derivation = wanted.rule.derivation(wanted.base_lr, wanted.grid)
    if json:
        record = {"steps_per_epoch": plan.steps_per_epoch, "steps": plan.total_steps, "lr": rates, "derivation": derivation}
        print(json_module.dumps(record))
        return 0
    for line in plan.describe():
        print(line)
    print(f"\n{'step':>8} {'epoch':>9}  rate")
    for step, rate in zip(range(first, last), rates, strict=True):
        print(f"{step:>8} {step / plan.steps_per_epoch:>9.3f}  {rate!r}")
    return 0


def _range(steps: str | None, total: int) -> tuple[int, int]:
    if steps is None:
        return 0, total
    first, colon, last = steps.partition(":")
    numbers = (first or "0", last or str(total))
    if not colon or not all(number.isdigit() for number in numbers) or int(numbers[0]) >= min(int(numbers[1]), total):
        raise UsageError(f"--steps reads FIRST:LAST within 0:{total}, for example 0:100. Got {steps!r}.")
    return int(numbers[0]), min(int(numbers[1]), total)
