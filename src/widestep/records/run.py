"""A run directory: one recipe, its environment, what happened, and what came out."""

import csv
import io
import json
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from widestep.errors import DirectoryInUse, EnvironmentFault, StoreError, UsageError
from widestep.files import (
    explained,
    is_leftover,
    make_directory,
    not_written,
    remove_leftovers,
    write_atomically,
    write_json,
)
from widestep.lines import LineFile, read_json_lines
from widestep.locks import DirectoryLock, is_lock
from widestep.plan import recipes
from widestep.plan.recipe import Recipe, differences
from widestep.records.result import RunResult, Status
from widestep.records.saved import ever_saved, saved_steps

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
        self._logs: dict[str, LineFile] = {}

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.directory / "checkpoints"

    def status(self) -> Status | None:
        """Return what STATUS says, or None before the first start."""
        path = self.directory / "STATUS"
        try:
            return path.read_text(encoding="utf-8").strip() if path.exists() else None  # type: ignore[return-value]
        except UnicodeDecodeError:
            raise StoreError(f"{path} must say how the run stands, in a word. It is damaged; delete it.") from None

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
        StoreError
            When a run is there without its recipe.
        """
        path = self.directory / "recipe.toml"
        if not path.exists():
            self._check_free()
            return
        if path.stat().st_size == 0:  # it is written as a whole: what is empty was emptied
            raise StoreError(f"A run keeps its recipe. {path} is empty; restore it, or use --fresh to begin again.")
        try:
            kept = recipes.load(str(path)).recipe
        except UsageError as error:
            why = str(error).rstrip(".")
            raise StoreError(
                f"A run keeps its recipe. {path} is damaged ({why}); restore it, or use --fresh to begin again."
            ) from None
        changed = differences(kept, self.recipe)
        if changed:
            said = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
            raise UsageError(
                f"{self.directory} holds a run of another recipe ({said}). Choose another --out, or --fresh to move the old "
                "run aside."
            )

    def _check_free(self) -> None:
        """Refuse a directory without a recipe unless it is empty, or what a start left that was cut off or failed."""
        if not self.directory.exists():
            return
        names = [item.name for item in self.directory.iterdir() if not is_lock(item.name) and not is_leftover(item.name)]
        if "STATUS" in names or saved_steps(self.checkpoints):
            raise StoreError(
                f"A run keeps its recipe. {self.directory} holds a run whose recipe.toml is missing; restore it, or use "
                "--fresh to move the run aside and begin again."
            )
        if names not in ([], ["log.txt"]):
            raise UsageError(f"A run directory is empty or holds a run. {self.directory} holds other files; choose another.")

    def open(self, environment: Mapping[str, Any]) -> None:
        """Lock the directory and begin or continue the run; call `open_records` before training.

        Raises
        ------
        DirectoryInUse, UsageError, StoreError, EnvironmentFault
        """
        with explained(self.directory):
            make_directory(self.directory)
            self._lock = DirectoryLock(self.directory)
            try:
                self._begin(environment)
            except BaseException:
                self.close()
                raise

    def _begin(self, environment: Mapping[str, Any]) -> None:
        """Begin or continue: the recipe is written first and STATUS last, so that a start that was cut off is taken up.

        A run that ended before anything was saved begins again, in the environment of now: with the image replaced, or the
        model mended, that it failed of.
        """
        self.check_recipe()
        remove_leftovers(self.directory)
        if self.status() is not None and not self.checkpoints.is_dir():  # it was made before the status
            raise StoreError(
                f"A run goes on from what it saved. {self.checkpoints} is gone; restore it, or use --fresh to begin again."
            )
        if not ever_saved(self.checkpoints):
            self.write("recipe.toml", recipes.to_toml(self.recipe))
            write_json(self.directory / "environment.json", dict(environment), self._lock)
            self.write("command.txt", os.fsencode(shlex.join(sys.argv) + "\n"))
        make_directory(self.checkpoints)
        remove_leftovers(self.checkpoints)
        self.set_status("running")

    def write(self, name: str, content: str | bytes) -> None:
        """Replace a file of the directory, unless another process has taken the directory over."""
        write_atomically(self.directory / name, content, self._lock)

    @property
    def fence(self) -> DirectoryLock | None:
        """The hold on the directory, asked before anything takes its place there; None while the run is not open."""
        return self._lock

    def open_records(self, lengths: Mapping[str, int], *, with_digests: bool = False) -> list[str]:
        """Open the record files, each cut back to the length it had at the checkpoint that is resumed from.

        Returns
        -------
        What the user should know: records that are missing, and a file system without locks.
        """
        assert self._lock is not None
        names = ["metrics.jsonl", "epochs.csv", "ledger.jsonl"]
        if with_digests or (self.directory / "digests.jsonl").exists():
            names.append("digests.jsonl")
        for name in names:
            self._files[name] = LineFile(self.directory / name, lengths.get(name, 0), self._lock)
        notes = [
            f"{name} lacks {file.num_missing:,} bytes that were there at the last save; records of steps are missing"
            for name, file in self._files.items()
            if file.num_missing
        ]
        if self._files["epochs.csv"].length() == 0:
            self._files["epochs.csv"].append(",".join(EPOCH_COLUMNS))
        return notes + ([self._lock.warning] if self._lock.warning else [])

    def flush_records(self) -> str | None:
        """Let readers see what was recorded so far; returns what waits for space on the disk, in words, or None."""
        failing = [file for file in self._all_files() if not file.flush()]
        if not failing:
            return None
        file = failing[0]
        assert file.failure is not None
        lost = sum(file.num_lost for file in failing)
        return f"{not_written(file.path, file.failure)} Its lines wait in memory" + (
            f"; {lost:,} found no room there and are lost." if lost else "."
        )

    def record_lengths(self) -> dict[str, int]:
        """Write what waits and return the lengths in bytes; raises EnvironmentFault when the disk does not take it all."""
        return {name: file.length() for name, file in self._files.items()}

    def sync_records(self) -> None:
        """Make the record files durable: a checkpoint must never be ahead of them. Another thread may do so."""
        for file in list(self._all_files()):
            file.sync()

    def _all_files(self) -> list[LineFile]:
        return [*self._files.values(), *self._logs.values()]

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
        """Append a line with the time to log.txt; on a full disk it waits in memory."""
        self._told("log.txt", f"{_now()} {' '.join(line.splitlines())}")

    def event(self, kind: str, **facts: Any) -> None:
        """Append a start, stop or resume to history.jsonl; on a full disk it waits in memory."""
        self._told("history.jsonl", json.dumps({"event": kind, "time": _now(), "process": os.getpid(), **facts}))

    def _told(self, name: str, line: str) -> None:
        if name not in self._logs:
            self._logs[name] = LineFile(self.directory / name, None, self._lock)
        self._logs[name].append(line)
        self._logs[name].flush()

    def history(self) -> list[dict[str, Any]]:
        """Return the events so far."""
        return list(read_json_lines(self.directory / "history.jsonl"))

    def set_status(self, status: Status) -> None:
        """Write STATUS."""
        self.write("STATUS", status + "\n")

    def finish(self, result: RunResult) -> None:
        """Write the outcome, then the status: the order in which a reader may trust them. Records reach the disk before."""
        self.sync_records()
        write_json(self.directory / "result.json", result.as_dict(), self._lock)
        self.set_status(result.status)

    def close(self) -> None:
        """Close the record files and release the directory, also when a file cannot be written any more.

        What a checkpoint or a result speaks of is on the disk by then; what came after it cannot be helped.
        """
        for file in self._all_files():
            with suppress(EnvironmentFault, DirectoryInUse):
                file.close()
        if self._lock is not None:
            self._lock.release()
        self._files, self._logs, self._lock = {}, {}, None

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
