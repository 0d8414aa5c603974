"""Saves states one after the other and tells of each that is certain: `cut_program.py DIRECTORY`, until it is ended."""

import sys
import time
from pathlib import Path

import torch

from widestep.plan.cadence import Cadence
from widestep.plan.recipe import Recipe
from widestep.records.run import Run
from widestep.train import checkpoint
from widestep.train.saving import Copied, Saver

RECIPE = Recipe(seed=3, epochs="600st")


def tensors_after(step: int) -> dict[str, torch.Tensor]:
    """100 KB that tell their step."""
    return {"w": torch.arange(25_000, dtype=torch.float32) + step}


def newest_step(directory: Path) -> int:
    """The step that training would go on from: its state is right and its records are there; 0 when nothing was saved."""
    run = Run(directory, RECIPE)
    run.open({})
    try:
        found = checkpoint.newest(run.checkpoints)
        notes = run.open_records({} if found is None else found.facts["lengths"])
    finally:
        run.close()
    step = 0 if found is None else found.step
    if notes or (found is not None and not torch.equal(found.tensors["w"], tensors_after(step)["w"])):
        raise AssertionError(f"step {step} is not what was saved; {notes}")
    return step


def main() -> None:
    run = Run(Path(sys.argv[1]), RECIPE)
    run.open({})
    run.open_records({})
    saver = Saver(Cadence(1, "st"), 2, print)

    def copy() -> list[Copied]:
        facts = {"recipe": "r", "tally": {"step": step}, "lengths": run.record_lengths()}
        return [Copied(run, step, tensors_after(step), facts, None, lambda: None)]

    step = 0
    while True:
        step += 1
        run.metrics({"step": step})
        saver.insist(step, copy)
        print(step, flush=True)
        time.sleep(0.05)  # so that a cut may come before anything else reaches the disk


if __name__ == "__main__":
    main()
