"""What runs and studies do to the disk, in small: to be cut off anywhere, and looked at afterwards (see crash_points.py)."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from widestep.errors import WidestepError
from widestep.plan.cadence import Cadence
from widestep.plan.recipe import Recipe
from widestep.records.result import RunResult
from widestep.records.run import Run
from widestep.study.store import StudyStore
from widestep.study.study import parse
from widestep.train import checkpoint, saving
from widestep.train.saving import Copied, Saver, Weights

Tell = Callable[[str], object]
RECIPE = Recipe(seed=3, epochs="600st")
STEPS = (10, 20, 30, 40)
saving.PAUSE_SECONDS = 0.0


@dataclass(frozen=True)
class Scenario:
    """Prepare a directory; act in it, telling what one was assured of, and return an exit code; look what is wrong after."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, Tell], int]
    look: Callable[[Path, list[str]], list[str]]
    once: tuple[int, ...] = (0, 5)
    """Exit codes that are right when a single call is refused."""


def tensors_after(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"weights/w": torch.randn(300, generator=generator), "running": torch.randn(4, 2, 3, generator=generator)}


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def copied(run: Run, step: int) -> list[Copied]:
    facts = {"recipe": "r", "tally": {"step": step}, "lengths": run.record_lengths()}
    best = Weights({"w": tensors_after(step)["weights/w"]}, {"step": step})
    return [Copied(run, step, tensors_after(step), facts, best, lambda: None)]


def resumed(directory: Path) -> tuple[Run, int]:
    """Open a run and its records as training does; return it with the step it goes on from."""
    run = Run(directory, RECIPE)
    run.open({"torch": "2"})
    saved = checkpoint.newest(run.checkpoints)
    if saved is not None and not equal(saved.tensors, tensors_after(saved.step)):
        raise AssertionError(f"silently wrong: the state after {saved.step} steps")
    run.open_records({} if saved is None else saved.facts["lengths"])
    return run, 0 if saved is None else saved.step


def train_on(directory: Path, tell: Tell, last: int) -> int:
    """Take steps up to `last`, save after some, and end as complete; every save that is certain is told."""
    try:
        run, step = resumed(directory)
        saver = Saver(Cadence(10, "st"), 2, lambda text: None)
        run.event("started", step=step)
        while step < last:
            run.metrics({"step": step})
            run.ledger({"step": step})
            step += 1
            if step in STEPS:
                saver.begin(step, lambda: copied(run, step))  # noqa: B023
                saver.wait()
                if saver.saved_step == step:
                    tell(f"saved {step}")
                run.log(f"step {step}")
        saver.insist(step, lambda: copied(run, step))
        tell(f"saved {step}")
        saving.insist(lambda: run.finish(result(step)))
        tell("finished")
        run.close()
    except WidestepError as error:
        return error.exit_code
    return 0


def result(step: int, recipe: Recipe = RECIPE) -> RunResult:
    words = {
        "status": "complete",
        "recipe_fingerprint": recipe.fingerprint,
        "weights_sha256": "0" * 64,
        "mode": "reproducible",
    }
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(RunResult)}
    return RunResult(**{**values, **words, "weights_sha256": "0" * 64, "seed": recipe.seed, "steps": step, "reason": None})


def look_at_run(directory: Path, assured: list[str]) -> list[str]:
    """The state is the last assured one or newer, every step is recorded once, and the run comes to its end."""
    problems = []
    least = max((int(text.split()[1]) for text in assured if text.startswith("saved")), default=0)
    if "finished" in assured and not Run(directory, RECIPE).finished():
        problems.append("it was finished, and is not")
    try:
        run, step = resumed(directory)
        run.close()
    except (WidestepError, AssertionError) as error:
        return [*problems, f"it does not go on: {error}"]
    if step < least:
        problems.append(f"it goes on from step {step}, but {least} was saved")
    best = run.checkpoints / "best.safetensors"
    if best.exists():
        load_file(best)
    steps = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    if steps != list(range(step)):
        problems.append(f"at step {step} the recorded steps are {steps}")
    left = [path.name for path in directory.rglob("*.tmp")]
    if left:
        problems.append(f"left behind: {left}")
    if train_on(directory, lambda text: None, STEPS[-1]) != 0:
        problems.append("it does not come to its end")
    steps = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    if steps != list(range(STEPS[-1])):
        problems.append(f"in the end the recorded steps are {steps}")
    if len(list(run.checkpoints.glob("step-*"))) > 2:
        problems.append("more states than are kept")
    return problems


def nothing(directory: Path) -> None:
    """Begin without a directory."""


def begun(directory: Path) -> None:
    if train_on(directory, lambda text: None, 20) != 0:
        raise AssertionError("a run could not be prepared")
    (directory / "result.json").unlink()
    (directory / "STATUS").write_text("running\n")


STUDY = """
name = "three"
title = "One warmup, three seeds"
recipe = "digits"
seeds = [0, 1, 2]
margin = 0.5
device = "cpu"

[arms.warm]
axes = { warmup = ["0ep"] }
"""


def study_store(directory: Path) -> StudyStore:
    return StudyStore.create(directory, parse(STUDY))


def work_on_study(directory: Path, tell: Tell) -> int:
    """Claim trials; one is trained, one fails and is tried again, one fails for good."""
    try:
        store = study_store(directory)
        trained, again, failing = store.claim(store.trials)
        run = store.run(trained)
        run.open({})
        saving.insist(lambda: run.finish(result(30, run.recipe)))
        run.close()
        tell("complete")
        store.fail(again, "out of memory")
        tell("failed 1")
        store.forget_failures()
        tell("again")
        store.fail(failing, "diverged too early")
        tell("failed 2")
        store.release(store.trials)
    except WidestepError as error:
        return error.exit_code
    return 0


def look_at_study(directory: Path, assured: list[str]) -> list[str]:
    """The study opens, what was certain is there, nobody holds a claim, and the same work can be done again."""
    try:
        store = study_store(directory)
        states = [state.status for state in store.states()]
    except WidestepError as error:
        return [f"it does not open: {error}"]
    problems = []
    if "complete" in assured and states[0] != "complete":
        problems.append(f"a trial was complete, and is {states[0]}")
    if "failed 1" in assured and "again" not in assured and states[1] not in ("failed", "missing"):
        problems.append(f"a trial had failed, and is {states[1]}")
    if "failed 2" in assured and states[2] != "failed":
        problems.append(f"a trial had failed, and is {states[2]}")
    if "running" in states:
        problems.append("somebody who is gone holds a claim")
    store.forget_failures()
    left = [state.trial for state in store.states() if not state.finished]
    if store.claim(left) != left:
        problems.append("what is left cannot be claimed")
    for trial in left:
        run = store.run(trial)
        run.open({})
        run.finish(result(30, run.recipe))
        run.close()
    store.release(store.trials)
    if [state.status for state in store.states()] != ["complete"] * 3:
        problems.append("it does not come to its end")
    return problems


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("start", nothing, lambda directory, tell: train_on(directory, tell, 10), look_at_run),
        Scenario("saves", begun, lambda directory, tell: train_on(directory, tell, 40), look_at_run),
        Scenario("study", nothing, work_on_study, look_at_study),
    )
}
