"""What a study has cost: device-hours, images and time by arm and in all, from what its runs wrote down themselves."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from widestep.errors import StoreError
from widestep.lines import read_json_lines
from widestep.plan.plain import plain
from widestep.records.reading import read_record
from widestep.report.page import Table
from widestep.report.results import StudyResults

ENERGY = "not measured"
"""What a report says of energy: no run reads a meter."""
_BEGINNINGS = ("started", "resumed")
_HOUR = 3600.0


@dataclass(frozen=True)
class Cost:
    """What runs have cost.

    Parameters
    ----------
    num_runs, num_recorded
        Runs that began, and those of them whose ends were all written down.
    device_seconds
        Seconds times processes, each process with one device; runs computed side by side share them.
    images
        Training images of the runs that have an outcome.
    num_lost
        Attempts without a recorded end - killed, or still running - whose time is not in the numbers.
    """

    num_runs: int = 0
    num_recorded: int = 0
    device_seconds: float = 0.0
    images: int = 0
    num_lost: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def device_hours(self) -> float:
        """Hours of one device."""
        return self.device_seconds / _HOUR


@dataclass(frozen=True)
class StudyCost:
    """The cost by arm (a run that several arms share counts for the first), from the first start to the last end."""

    arms: dict[str, Cost]
    devices: list[str]
    began: datetime | None = None
    ended: datetime | None = None

    @property
    def total(self) -> Cost:
        """All arms together."""
        return sum(self.arms.values(), Cost())

    @property
    def elapsed_seconds(self) -> float | None:
        """From the first start to the last end, pauses included."""
        return None if self.began is None or self.ended is None else (self.ended - self.began).total_seconds()

    def record(self) -> dict[str, Any]:
        """Return the cost as plain values, for cost.json."""
        return {
            "total": _record(self.total),
            "arms": {arm: _record(cost) for arm, cost in self.arms.items()},
            "devices": self.devices,
            "elapsed_seconds": self.elapsed_seconds,
            "energy_joules": None,
        }


def _record(cost: Cost) -> dict[str, Any]:
    return {**vars(cost), "device_hours": cost.device_hours}


def study_cost(results: StudyResults) -> StudyCost:
    """Read what the runs of a study have cost so far."""
    arms, seen = dict.fromkeys(results.arms, Cost()), set()
    devices: dict[str, None] = {}
    times: list[datetime] = []
    for arm, cells in results.arms.items():
        for cell in cells:
            for seed in cell.outcomes:
                name = cell.cell.fingerprint(seed)
                if name not in seen:
                    seen.add(name)
                    cost, at, device = _run_cost(results.directory / "trials" / name)
                    arms[arm] += cost
                    times += at
                    devices.update(dict.fromkeys(device))
    for search in results.searches:
        for name in search.trials:
            cost, at, device = _run_cost(results.directory / "trials" / name)
            arms[search.arm] += cost
            times += at
            devices.update(dict.fromkeys(device))
    return StudyCost(arms, list(devices), min(times, default=None), max(times, default=None))


def _run_cost(directory: Path) -> tuple[Cost, list[datetime], list[str]]:
    events: list[dict[str, Any]] = []
    with suppress(OSError, ValueError, StoreError):
        events = list(read_json_lines(directory / "history.jsonl"))
    begun = sum(event.get("event") in _BEGINNINGS for event in events)
    if not begun:
        return Cost(), [], []
    ends = [spent for event in events if (spent := _spent(event)) is not None]
    result, facts = _read(directory / "result.json"), _read(directory / "environment.json")
    images = result.get("train_images_seen")
    cost = Cost(1, int(len(ends) == begun), sum(ends), images if isinstance(images, int) else 0, max(0, begun - len(ends)))
    device = facts.get("device")
    kinds = [plain(str(facts.get("processor") if device == "cpu" else device))] if device else []
    return cost, [at for event in events if (at := _time(event)) is not None], kinds


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return read_record(path, "a record of a run") or {}
    except StoreError:
        return {}


def _spent(event: Mapping[str, Any]) -> float | None:
    """Return the device-seconds that an event accounts for, or None when it accounts for none."""
    values = [event.get(name) for name in ("seconds", "processes", "runs")]
    if event.get("event") in _BEGINNINGS or not all(isinstance(value, (int, float)) and value >= 0 for value in values):
        return None
    seconds, processes, runs = (float(value) for value in values if value is not None)
    return seconds * processes / max(1.0, runs)


def _time(event: Mapping[str, Any]) -> datetime | None:
    with suppress(KeyError, TypeError, ValueError):
        at = datetime.fromisoformat(event["time"])
        return at if at.tzinfo is not None else None
    return None


def cost_table(cost: StudyCost) -> Table:
    """Return the cost as a table of the page: a line for every arm, and the total."""
    lines = {**{plain(arm): one for arm, one in cost.arms.items()}, "total": cost.total}
    rows = [_row(name, one) for name, one in lines.items()] if cost.total.num_runs else []
    elapsed = cost.elapsed_seconds
    words = "Device-hours are hours times processes, each with one device; runs computed side by side share them. "
    words += "A run that several arms share counts for the first. "
    words += f"From the first start to the last end {duration(elapsed)}, pauses included. " if elapsed is not None else ""
    words += f"Devices: {', '.join(cost.devices)}. " if cost.devices else ""
    words += f"Energy: {ENERGY}."
    if cost.total.num_lost:
        lost = cost.total.num_lost
        words += (
            f" {lost} {'attempt has' if lost == 1 else 'attempts have'} no recorded end (killed, or running): not counted."
        )
    headers = ["arm", "runs", "device-hours", "training images", "images per device-second"]
    return Table("Cost", headers, rows, words)


def _row(name: str, cost: Cost) -> list[str]:
    speed = f"{cost.images / cost.device_seconds:,.0f}" if cost.device_seconds and not cost.num_lost else "–"
    hours = f"{cost.device_hours:.3g}" if cost.num_recorded else "–"
    return [name, str(cost.num_runs), hours, f"{cost.images:,}", speed]


def duration(seconds: float) -> str:
    """Return a length of time in words.

    Examples
    --------
    >>> duration(42.4), duration(400), duration(90000)
    ('42 s', '6.7 min', '25 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
