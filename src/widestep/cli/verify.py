"""`widestep verify`: show on this machine that neither processes nor a kill change a byte of the weights."""

import hashlib
import json as json_module
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from widestep.cli.options import request
from widestep.data.facts import describe
from widestep.errors import DirectoryInUse, NumericError, UsageError, WidestepError
from widestep.files import DirectoryLock, explained, read_json_lines, write_atomically
from widestep.plan.recipe import Recipe
from widestep.plan.recipes import to_toml
from widestep.plan.runplan import RunPlan
from widestep.records.run import move_aside

_SMALL = {"epochs": "4ep", "warmup": "1ep", "dropout": "0.1", "tail": "short", "workers_per_forward": "1"}
_GRIDS = ("8x1x6", "12x1x5")
_PATIENCE_SECONDS = 300.0
_KILL = "kill -9 of the whole job"


@dataclass(frozen=True)
class Proof:
    """One run of the comparison and what came out of it."""

    grid: str
    processes: int
    interruption: str
    weights_sha256: str
    losses_sha256: str


def verify(
    *, recipe: str | None = None, processes: str = "1,2,3", json: bool = False, keep: Path | None = None, **fields: str
) -> int:
    """Train a small recipe on 1, 2 and 3 processes and once with a kill, and compare the weights to the byte.

    For example:
      widestep verify
      widestep verify --recipe digits --grid 10x1x8 --epochs 60st --processes 1,4
      widestep verify --json

    Parameters
    ----------
    recipe
        Recipe to prove it for; otherwise a small one with 8 and with 12 workers. It is trained to its end every time.
    processes
        Numbers of processes to compare.
    json
        Print as JSON.
    keep
        Keep the runs in this directory.
    fields
        Recipe fields by name.
    """
    recipes = _recipes(recipe, fields)
    counts = _counts(processes)
    proofs: list[Proof] = []
    with ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="widestep-verify-")))
        for chosen in recipes:
            for count in counts:
                proofs.append(_train(chosen, directory, count, killed=False))
                _show(proofs[-1], json)
            proofs.append(_train(chosen, directory, max(counts), killed=True))
            _show(proofs[-1], json)
    equal = all(_equal([proof for proof in proofs if proof.grid == str(chosen.grid)]) for chosen in recipes)
    if json:
        print(json_module.dumps({"equal": equal, "runs": [asdict(proof) for proof in proofs]}, indent=2))
    if not equal:
        raise NumericError(
            "Weights and losses must be the same bytes for any number of processes and after a kill. They are not on this "
            "machine; run again with --keep DIR and compare the runs' metrics.jsonl."
        )
    if not json:
        tried = "and after the kill" if any(proof.interruption == _KILL for proof in proofs) else "(too short to be killed)"
        print(f"equal      weights and losses are the same bytes for every number of processes {tried}")
    return 0


def _recipes(name: str | None, fields: Mapping[str, str]) -> list[Recipe]:
    if name is not None:
        return [request(name, fields).recipe]
    grids = [fields["grid"]] if "grid" in fields else list(_GRIDS)
    return [request("digits", {**_SMALL, **fields, "grid": grid}).recipe for grid in grids]


def _counts(processes: str) -> list[int]:
    parts = [part.strip() for part in processes.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,3}", part) for part in parts):
        raise UsageError(f"--processes takes numbers of processes, for example 1,2,3. Got {processes!r}.")
    return [int(part) for part in parts]


def _train(recipe: Recipe, parent: Path, num_processes: int, *, killed: bool) -> Proof:
    directory = parent / f"{recipe.grid}-{num_processes}{'-killed' if killed else ''}"
    path = parent / f"{recipe.grid}.toml"
    with explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_toml(recipe))
    move_aside(directory)
    command = [sys.executable, "-m", "widestep", "train", "--recipe", str(path), "--out", str(directory), "--json"]
    command += ["--processes", str(num_processes), "--checkpoint-every", f"{_cadence(recipe)}st", "--tensorboard", "false"]
    interruption = _kill_in_the_middle(command, directory) if killed else "none"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 4):
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise WidestepError(f"A run of the comparison failed with exit code {done.returncode}: {reason[-1]}")
    result = json_module.loads(done.stdout)
    return Proof(str(recipe.grid), num_processes, interruption, result["weights_sha256"], _losses_sha256(directory))


def _cadence(recipe: Recipe) -> int:
    """Return the steps between saves: often enough that a short run, too, is killed with something saved."""
    facts = describe(recipe.data, train_images=recipe.train_images, image_size=recipe.image_size)
    return max(1, min(5, RunPlan(recipe, facts.num_train).total_steps // 4))


def _kill_in_the_middle(command: list[str], directory: Path) -> str:
    """Start the run, kill -9 all its processes as soon as it has saved twice, and say whether that came to pass."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    saved = directory / "checkpoints" / "previous.safetensors"
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while child.poll() is None and not saved.exists() and time.monotonic() < deadline:
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


def _losses_sha256(directory: Path) -> str:
    records = read_json_lines(directory / "metrics.jsonl")
    text = "\n".join(json_module.dumps([record["step"], record["lr"], record["loss"]]) for record in records)
    return hashlib.sha256(text.encode()).hexdigest()


def _equal(proofs: list[Proof]) -> bool:
    return len({(proof.weights_sha256, proof.losses_sha256) for proof in proofs}) == 1


def _show(proof: Proof, as_json: bool) -> None:
    if not as_json:
        how = f"{proof.processes} process(es)" + ("" if proof.interruption == "none" else f", {proof.interruption}")
        print(f"{proof.grid:<9} {how:<46} weights {proof.weights_sha256[:24]} losses {proof.losses_sha256[:16]}", flush=True)
