"""A run directory: one recipe, its environment, what happened, and what came out."""

import csv
import io
import json
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from widestep.errors import StoreError, UsageError
from widestep.files import (
    DirectoryLock,
    LineFile,
    explained,
    read_json_lines,
    remove_leftovers,
    write_atomically,
    write_json,
)
from widestep.plan import recipes
from widestep.plan.recipe import Recipe, differences
from widestep.records.result import RunResult, Status

EPOCH_COLUMNS = ("epoch", "step", "lr", "train_loss", "val_loss", "val_correct", "val_images", "val_accuracy")


class Run:
    """One recipe in one directory.

    The directory holds recipe.toml (resolved), environment.json, command.txt, log.txt, metrics.jsonl (a record a step),
    epochs.csv, ledger.jsonl (what the optimizer applied), digests.jsonl (of every tensor, when asked for), history.jsonl
    (starts, stops), checkpoints/, result.json and STATUS. Several processes may hold a `Run` of one directory, but only one
    of them opens it for writing.
    """

    def __init__(self, directory: Path, recipe: Recipe) -> None:
        self.directory = directory
        self.recipe = recipe
        self._lock: DirectoryLock | None = None
        self._files: dict[str, LineFile] = {}

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.directory / "checkpoints"

    def status(self) -> Status | None:
        """Return what STATUS says, or None before the first start."""
        path = self.directory / "STATUS"
        return path.read_text(encoding="utf-8").strip() if path.exists() else None  # type: ignore[return-value]

    def result(self) -> RunResult | None:
        """Return the outcome, or None while there is none."""
        path = self.directory / "result.json"
        return RunResult.read(path) if path.exists() else None

    def finished(self) -> bool:
        """Say whether the run has an outcome that the same command would not change (complete or diverged)."""
        return self.status() in ("complete", "diverged") and self.result() is not None

    def check_recipe(self) -> None:
        """Refuse a directory that belongs to another recipe (statement R3).

        Raises
        ------
        UsageError
            Names every differing field with both values.
        """
        path = self.directory / "recipe.toml"
        if not path.exists():
            if self.directory.exists() and any(item.name != ".lock" for item in self.directory.iterdir()):
                raise UsageError(
                    f"A run directory is empty or holds a run. {self.directory} holds other files; choose another."
                )
            return
        changed = differences(recipes.load(str(path)).recipe, self.recipe)
        if changed:
            said = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
            raise UsageError(
                f"{self.directory} holds a run of another recipe ({said}). Choose another --out, or --fresh to move the old "
                "run aside."
            )

    def open(self, environment: Mapping[str, Any]) -> None:
        """Lock the directory and begin or continue the run; call `open_records` before training.

        Raises
        ------
        DirectoryInUse, UsageError, EnvironmentFault
        """
        with explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(self.directory)
            try:
                self._begin(environment)
            except BaseException:
                self.close()
                raise

    def _begin(self, environment: Mapping[str, Any]) -> None:
        """Begin or continue: the recipe is written first and STATUS last, so that a start that was cut off is taken up."""
        remove_leftovers(self.directory)
        self.check_recipe()
        if self.status() is None:
            write_atomically(self.directory / "recipe.toml", recipes.to_toml(self.recipe))
            write_json(self.directory / "environment.json", dict(environment))
            write_atomically(self.directory / "command.txt", os.fsencode(shlex.join(sys.argv) + "\n"))
        self.checkpoints.mkdir(exist_ok=True)
        remove_leftovers(self.checkpoints)
        self.set_status("running")

    def open_records(self, lengths: Mapping[str, int], *, with_digests: bool = False) -> None:
        """Open the record files, each cut back to the length it had at the checkpoint that is resumed from."""
        with explained(self.directory):
            names = ["metrics.jsonl", "epochs.csv", "ledger.jsonl"]
            if with_digests or (self.directory / "digests.jsonl").exists():
                names.append("digests.jsonl")
            for name in names:
                self._files[name] = LineFile(self.directory / name, lengths.get(name, 0))
            if self._files["epochs.csv"].length() == 0:
                self._files["epochs.csv"].append(",".join(EPOCH_COLUMNS))

    def flush_records(self) -> None:
        """Let readers see what was recorded so far."""
        for file in self._files.values():
            file.length()

    def record_lengths(self) -> dict[str, int]:
        """Make the record files durable and return their lengths in bytes: a checkpoint must never be ahead of them."""
        for file in self._files.values():
            file.sync()
        return {name: file.length() for name, file in self._files.items()}

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Append one step's record to metrics.jsonl."""
        self._files["metrics.jsonl"].append(json.dumps(record))

    def ledger(self, record: Mapping[str, Any]) -> None:
        """Append to ledger.jsonl what the optimizer really applied."""
        self._files["ledger.jsonl"].append(json.dumps(record))

    def digests(self, record: Mapping[str, Any]) -> None:
        """Append digests of a step's tensors to digests.jsonl."""
        self._files["digests.jsonl"].append(json.dumps(record))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Append one evaluation to epochs.csv."""
        self._files["epochs.csv"].append(",".join("" if row[name] is None else repr(row[name]) for name in EPOCH_COLUMNS))

    def log(self, line: str) -> None:
        """Append a line with the time to log.txt."""
        with explained(self.directory), (self.directory / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{_now()} {line}\n")

    def event(self, kind: str, **facts: Any) -> None:
        """Append a start, stop or resume to history.jsonl."""
        with explained(self.directory):
            history = LineFile(self.directory / "history.jsonl")
            history.append(json.dumps({"event": kind, "time": _now(), "process": os.getpid(), **facts}))
            history.close()

    def history(self) -> list[dict[str, Any]]:
        """Return the events so far."""
        return list(read_json_lines(self.directory / "history.jsonl"))

    def set_status(self, status: Status) -> None:
        """Write STATUS."""
        write_atomically(self.directory / "STATUS", status + "\n")

    def finish(self, result: RunResult) -> None:
        """Write the outcome, then the status: the order in which a reader may trust them."""
        write_json(self.directory / "result.json", result.as_dict())
        self.set_status(result.status)

    def close(self) -> None:
        """Close the record files and release the directory, also when a file cannot be written any more."""
        with ExitStack() as closing:
            if self._lock is not None:
                closing.callback(self._lock.release)
            for file in self._files.values():
                closing.callback(file.close)
            self._files, self._lock = {}, None

    def read_epochs(self) -> list[dict[str, float | None]]:
        """Return epochs.csv as rows of numbers (None where a value is empty)."""
        path = self.directory / "epochs.csv"
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8")
        rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), restval="missing")
        try:
            return [{name: float(row[name]) if row[name] else None for name in EPOCH_COLUMNS} for row in rows]
        except (KeyError, TypeError, ValueError):
            raise StoreError(f"{path} must have the columns {', '.join(EPOCH_COLUMNS)}. It is damaged.") from None


def move_aside(directory: Path) -> Path | None:
    """Move an old run out of the way (`--fresh`): nothing is ever deleted. Returns the new place, or None.

    Raises
    ------
    DirectoryInUse
        When a live process works there: it would go on writing into the run that takes its place.
    UsageError
        When the directory has no name that could be changed.
    """
    if not directory.exists():
        return None
    if directory.name in ("", ".."):
        raise UsageError(f"--fresh renames the old run's directory. Got {str(directory)!r}; give the directory by its name.")
    number = 1
    while (target := directory.with_name(f"{directory.name}.old{number}")).exists():
        number += 1
    with explained(directory), DirectoryLock(directory):
        return directory.rename(target)


def open_existing(directory: Path) -> Run:
    """Return the run of a directory, read only; raises UsageError when there is none."""
    path = directory / "recipe.toml"
    if not path.is_file():
        raise UsageError(f"A run directory holds recipe.toml. {directory} does not; give the directory of a run.")
    return Run(directory, recipes.load(str(path)).recipe)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
