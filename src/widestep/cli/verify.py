"""`widestep verify`: show on this machine that neither processes nor threads nor a kill change a byte of the weights."""

import json as json_module
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from widestep.cli.options import request
from widestep.data.facts import describe
from widestep.errors import DirectoryInUse, NumericError, UsageError, WidestepError, WorkerLost
from widestep.files import explained, write_atomically
from widestep.locks import DirectoryLock
from widestep.plan import recipes
from widestep.plan.recipe import Recipe
from widestep.plan.runplan import RunPlan
from widestep.records.compare import compare
from widestep.records.run import move_aside, open_existing
from widestep.records.saved import saved_steps

_SMALL = {"epochs": "4ep", "warmup": "1ep", "tail": "short", "workers_per_forward": "1"}
_GRIDS = ("8x1x6", "12x1x5")
_STEPS = 6
_VAL_IMAGES = 64
_PATIENCE_SECONDS = 300.0
_KILL = "kill -9 of the whole job"
_PREFIX = "widestep: "


@dataclass(frozen=True)
class Way:
    """One way to run the recipe.

    Parameters
    ----------
    processes
        How many it starts with.
    loader_threads
        Of each process.
    continued_on
        Processes that continue it after all processes were killed with -9; None for a run that nobody kills.
    """

    processes: int
    loader_threads: int
    continued_on: int | None = None


@dataclass(frozen=True)
class Proof:
    """One run of the comparison, and what it came to beside the first one."""

    grid: str
    processes: int
    loader_threads: int
    interruption: str
    weights_sha256: str
    equal: bool
    difference: str | None


def verify(
    *, recipe: str | None = None, processes: str = "1,2,3", json: bool = False, keep: Path | None = None, **fields: str
) -> int:
    """Train a recipe on 1, 2 and 3 processes and once with a kill, and compare every step to the byte.

    Your own recipe, model and data are proved with the first 6 steps (--epochs 20st
    for more) and 64 validation images; without --recipe a small one is trained to
    its end with 8 and with 12 workers. Operations without a deterministic form are
    listed first. A difference is named by its step and tensor; exit code 4.

    For example:
      widestep verify
      widestep verify --recipe digits --grid 10x1x8 --processes 1,4 --workers-per-forward 1
      widestep verify --recipe my.toml --data folder:PATH --model net.py:Net --grid 1x4x8

    Parameters
    ----------
    recipe
        Recipe to prove it for: a shipped one or a TOML file.
    processes
        Numbers of processes to compare.
    json
        Print as JSON.
    keep
        Keep the runs in this directory.
    fields
        Recipe fields by name.
    """
    chosen, counts = _recipes(recipe, fields), _counts(processes)
    if any(one.mode == "fast" for one in chosen):
        raise UsageError("Fast mode does not promise the same bytes, so there is nothing to verify. Got mode = fast.")
    proofs: list[Proof] = []
    with ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="widestep-verify-")))
        for one in chosen:
            _check_blocks(one, max(counts))
            _check_model(one)
            for proof in _proofs(one, counts, directory):
                proofs.append(proof)
                if not json:
                    print(_line(proof), flush=True)
    equal = all(proof.equal for proof in proofs)
    if json:
        print(json_module.dumps({"equal": equal, "runs": [asdict(proof) for proof in proofs]}, indent=2))
    if not equal:
        first = next(proof for proof in proofs if not proof.equal)
        raise NumericError(
            f"Every execution of a recipe must give the same bytes. With {first.processes} process(es) it did not on this "
            f"machine: {first.difference}. Look for state, clocks or random numbers of its own in the model, or for files "
            "that change; --keep DIR keeps the runs for `widestep diff`."
        )
    if not json:
        killed = any(proof.interruption.startswith("kill") for proof in proofs)
        print(
            "equal      every step and weight is the same bytes for every number of processes and loader threads "
            f"{'and after the kill' if killed else '(too short to be killed)'}"
        )
    return 0


def _recipes(name: str | None, fields: Mapping[str, str]) -> list[Recipe]:
    if name is not None:
        asked = request(name, fields).recipe
        changes = {"epochs": fields.get("epochs", f"{_STEPS}st"), "evaluate_every": fields.get("epochs", f"{_STEPS}st")}
        changes["val_images"] = str(min(asked.val_images or _VAL_IMAGES, _VAL_IMAGES))
        changes["batchnorm_images"] = str(min(asked.batchnorm_images, asked.grid.global_batch))
        ramp = [str(point) for point in asked.worker_ramp if "epochs" in fields]
        return [recipes.changed(asked, {**changes, "worker_ramp": ramp})]
    grids = [fields["grid"]] if "grid" in fields else list(_GRIDS)
    small = _SMALL if "model" in fields else {**_SMALL, "dropout": "0.1"}  # other models may have no place for it
    return [request("digits", {**small, **fields, "grid": grid}).recipe for grid in grids]


def _counts(processes: str) -> list[int]:
    parts = [part.strip() for part in processes.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,3}", part) for part in parts):
        raise UsageError(f"--processes takes numbers of processes, for example 1,2,3. Got {processes!r}.")
    return [int(part) for part in parts]


def _check_model(recipe: Recipe) -> None:
    """Look at the model before anything is trained: what cannot be trained is refused, all reasons at once."""
    from widestep.train.inspect import check_findings, doubts, inspect_recipe
    from widestep.train.setting import choose_device

    findings = inspect_recipe(recipe, choose_device("auto"))
    check_findings(findings, recipe)
    for doubt in doubts(findings, recipe):
        print(f"doubt      {doubt}", file=sys.stderr, flush=True)


def _check_blocks(recipe: Recipe, num_processes: int) -> None:
    """Say when there is too little to share out for the processes to matter."""
    num_workers = recipe.grid.num_workers
    num_blocks = -(-num_workers // recipe.workers_per_block(num_workers))
    if num_blocks < num_processes:
        print(
            f"note       {num_processes} processes share {num_blocks} block(s) of workers: some have nothing to do, which "
            "proves little. Give more workers, or fewer a forward pass",
            file=sys.stderr,
            flush=True,
        )


def _proofs(recipe: Recipe, counts: list[int], parent: Path) -> Iterator[Proof]:
    """Run the recipe in every way, each compared with the first."""
    threads = (2, 0, 4)
    ways = [Way(count, threads[number % 3]) for number, count in enumerate(counts)]
    ways.append(Way(max(counts), 2, continued_on=counts[-2] if len(counts) > 1 else counts[0]))
    reference: Path | None = None
    for way in ways:
        directory, interruption = _train(recipe, parent, way)
        run = open_existing(directory)
        result = run.result()
        assert result is not None
        found = None if reference is None else compare(open_existing(reference), run)
        reference = reference or directory
        different = found is not None and not found.equal
        words = found.difference.describe() if found is not None and found.difference is not None else None
        yield Proof(
            str(recipe.grid), way.processes, way.loader_threads, interruption, result.weights_sha256, not different, words
        )


def _train(recipe: Recipe, parent: Path, way: Way) -> tuple[Path, str]:
    """Train the recipe in one way; return the run's directory and what interrupted it."""
    name = f"{recipe.grid}-{way.processes}" + ("" if way.continued_on is None else "-killed")
    directory, path = parent / name, parent / f"{recipe.grid}.toml"
    with explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, recipes.to_toml(recipe))
    move_aside(directory)
    command = [sys.executable, "-m", "widestep", "train", "--recipe", str(path), "--out", str(directory), "--json"]
    command += ["--checkpoint-every", f"{_cadence(recipe)}st", "--tensorboard", "false", "--digests", "true"]
    command += ["--loader-threads", str(way.loader_threads), "--processes"]
    interruption, last = "none", way.processes
    if way.continued_on is not None:
        interruption = _kill_in_the_middle([*command, str(way.processes)], directory)
        last = way.continued_on
        if interruption == _KILL:
            interruption += f", continued on {last}"
    done = subprocess.run([*command, str(last)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 4) or not (directory / "result.json").exists():  # 4 is also a run that diverged
        raise _failure(done.returncode, done.stderr.splitlines())
    return directory, interruption


def _failure(code: int, lines: Sequence[str]) -> WidestepError:
    """Return the error of a run that has no outcome, with the run's own exit code.

    Processes may say different things. The first is the cause, unless one was killed: that one says nothing, the others lost
    it, and their launcher tells by which signal last.
    """
    told = [line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX)]
    if told:
        words = f": {told[-1 if code == WorkerLost.exit_code else 0]}"
    else:
        words = f" with exit code {code}: {lines[-1] if lines else 'it gave no reason'}"
    failure = WidestepError(f"A run of the comparison failed{words}")
    failure.exit_code = max(code, 1)
    return failure


def _cadence(recipe: Recipe) -> int:
    """Return the steps between saves: often enough that a short run, too, is killed with something saved."""
    facts = describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)
    return max(1, min(5, RunPlan(recipe, facts.num_train).total_steps // 4))


def _kill_in_the_middle(command: list[str], directory: Path) -> str:
    """Start the run, kill -9 all its processes as soon as it has saved twice, and say whether that came to pass."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    checkpoints = directory / "checkpoints"
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while child.poll() is None and len(saved_steps(checkpoints)) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    if child.poll() is not None:
        return "none: it ended before the kill"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    _wait_until_free(directory, deadline)
    return _KILL


def _wait_until_free(directory: Path, deadline: float) -> None:
    """Wait for the kernel to end the job's processes and with them their hold on the directory."""
    while time.monotonic() < deadline:
        try:
            DirectoryLock(directory).release()
            return
        except DirectoryInUse:
            time.sleep(0.02)


def _line(proof: Proof) -> str:
    how = f"{proof.processes} process(es), {proof.loader_threads} loader thread(s)"
    how += "" if proof.interruption == "none" else f", {proof.interruption}"
    return f"{proof.grid:<9} {how:<72} weights {proof.weights_sha256[:16]}{'' if proof.equal else ' DIFFERS'}"
