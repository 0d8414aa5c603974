"""What a study's searches have proposed and found so far: files of its directory.

`search/ARM/1.json`, `2.json` ... hold the settings that were proposed together, by the fingerprint of what each combination
of the arm's axes starts from (with seed 0); `search/ARM/best.json` what was found, once all is over. Each is written as a
whole and follows from the outcomes of the trials before it, so it does not matter who writes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from widestep.errors import StoreError, UsageError
from widestep.files import explained, write_json
from widestep.plan import recipes
from widestep.records.reading import read_record
from widestep.study.search import Search, Settings, design_of
from widestep.study.study import Cell, FoundArm, Study, Trial

FOLDER = "search"
"""In the study's directory; absent where nothing is searched."""

_STAND_IN = 1 << 20
"""Between the seeds that stand in for settings not proposed yet, in stacks."""


@dataclass(frozen=True)
class SearchArm:
    """An arm that searches, and the combinations of its axes."""

    name: str
    search: Search
    bases: list[Cell]
    design: str

    @property
    def keys(self) -> list[str]:
        """What names the combinations in files."""
        return [base.fingerprint(0) for base in self.bases]


@dataclass(frozen=True)
class Proposal:
    """A setting to try for one combination: its number from 0, the round it was proposed in from 1, one trial a seed."""

    number: int
    round: int
    settings: Settings
    trials: list[Trial]


class Searched:
    """The searches of one study."""

    def __init__(self, directory: Path, study: Study) -> None:
        self._directory = directory / FOLDER
        self._study = study
        self._rounds: dict[tuple[str, int], dict[str, list[Settings]]] = {}
        self._trials: dict[tuple[object, ...], list[Trial]] = {}

    @cached_property
    def arms(self) -> list[SearchArm]:
        """The arms that search."""
        return [
            SearchArm(name, arm.search, self._study.bases(name), design_of(self._study, name))
            for name, arm in self._study.arms.items()
            if arm.search is not None
        ]

    @property
    def study(self) -> Study:
        """The study, with what was found in place."""
        for arm in self.arms:
            waiting = [name for name, one in self._study.arms.items() if one.from_search == arm.name]
            if waiting and not isinstance(self._study.arms[waiting[0]], FoundArm) and (best := self.best(arm)):
                found = [best[key] for key in arm.keys]
                arms = dict(self._study.arms)
                for name in waiting:
                    arms[name] = FoundArm(**dict(arms[name]), found=found)
                self._study = self._study.model_copy(update={"arms": arms})
        return self._study

    def check_same(self) -> None:
        """Refuse to go on with a search that was begun otherwise.

        Raises
        ------
        UsageError
            Names the arm.
        """
        for arm in self.arms:
            record = self._read(arm, "1.json")
            if record is not None and record["design"] != arm.design:
                raise UsageError(
                    f"What is searched is declared before it is. Arm {arm.name} has proposals in {self._directory} and was "
                    "changed since; give the new search an arm of another name."
                )

    def rounds(self, arm: SearchArm) -> list[dict[str, list[Settings]]]:
        """Return what was proposed so far, round by round, by combination; raises StoreError when a file is damaged."""
        found: list[dict[str, list[Settings]]] = []
        for number in range(1, arm.search.num_rounds + 1):
            if (arm.name, number) not in self._rounds:
                record = self._read(arm, f"{number}.json")
                if record is None:
                    break
                self._rounds[arm.name, number] = self._checked(arm, f"{number}.json", record, "proposals", list)
            found.append(self._rounds[arm.name, number])
        return found

    def best(self, arm: SearchArm) -> dict[str, Settings] | None:
        """Return the best setting of each combination, or None before the search is over."""
        record = self._read(arm, "best.json")
        return None if record is None else self._checked(arm, "best.json", record, "best", dict)

    def is_over(self) -> bool:
        """Say whether nothing more will be proposed, and all that was found is known."""
        return all(self.best(arm) is not None for arm in self.arms)

    def write_round(self, arm: SearchArm, number: int, proposals: Mapping[str, Sequence[Settings]]) -> None:
        """Write down what is proposed together; raises EnvironmentFault when that cannot be."""
        self._write(arm, f"{number}.json", {"design": arm.design, "round": number, "proposals": proposals})

    def write_best(self, arm: SearchArm, best: Mapping[str, Settings]) -> None:
        """Write down what was found; raises EnvironmentFault when that cannot be."""
        self._write(arm, "best.json", {"design": arm.design, "best": best})

    def proposals(self, arm: SearchArm) -> dict[str, list[Proposal]]:
        """Return what was proposed so far for each combination, with its trials."""
        found: dict[str, list[Proposal]] = {key: [] for key in arm.keys}
        for number, together in enumerate(self.rounds(arm), start=1):
            for key, base in zip(arm.keys, arm.bases, strict=True):
                for settings in together[key]:
                    trials = [_trial(arm, base, settings, seed) for seed in arm.search.seeds]
                    found[key].append(Proposal(len(found[key]), number, settings, trials))
        return found

    def trials(self) -> list[Trial]:
        """Return all trials that are known so far: proposed ones, then those with the study's seeds."""
        study = self.study
        state = (id(study), *(len(self.rounds(arm)) for arm in self.arms))
        if state not in self._trials:
            found: dict[str, Trial] = {}
            for arm in self.arms:
                for trial in (one for some in self.proposals(arm).values() for each in some for one in each.trials):
                    found.setdefault(trial.fingerprint, trial)
            for trial in study.trials():
                found.setdefault(trial.fingerprint, trial)
            self._trials = {state: list(found.values())}
        return self._trials[state]

    def to_come(self) -> list[Trial]:
        """Return stand-ins for the trials that are not known yet, as many as there may be: what they cost is right."""
        found = []
        for arm in self.arms:
            proposed = self.proposals(arm)
            for key, base in zip(arm.keys, arm.bases, strict=True):
                left = 0 if self.best(arm) else arm.search.num_trials - len(proposed[key])
                found += [_stand_in(base, seed, number) for number in range(left) for seed in arm.search.seeds]
        for name in self.study.arms:
            for cell in self.study.cells(name):
                found += [_stand_in(cell, seed, 0) for seed in self.study.seeds if cell.is_open]
        return found

    def _read(self, arm: SearchArm, name: str) -> dict[str, Any] | None:
        path = self._directory / arm.name / name
        record = read_record(path, "a record of a search")
        if record is not None and not isinstance(record.get("design"), str):
            raise StoreError(f"{path} must be a record of a search. It is damaged; delete it.")
        return record

    def _checked(self, arm: SearchArm, name: str, record: Mapping[str, Any], part: str, kind: type) -> dict[str, Any]:
        """Return the part of a record that has an entry for each combination."""
        found = record.get(part)
        entries = found if isinstance(found, dict) else {}
        fits = entries.keys() == {*arm.keys} and all(isinstance(one, kind) for one in entries.values())
        every = [one for entry in entries.values() for one in (entry if kind is list else [entry])] if fits else []
        if not fits or any(not isinstance(one, dict) or one.keys() != arm.search.over.keys() for one in every):
            path = self._directory / arm.name / name
            raise StoreError(f"{path} must belong to the search of arm {arm.name}. It is damaged; delete it.")
        return entries

    def _write(self, arm: SearchArm, name: str, record: Mapping[str, Any]) -> None:
        folder = self._directory / arm.name
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / name, record)


def _trial(arm: SearchArm, base: Cell, settings: Settings, seed: int) -> Trial:
    recipe = recipes.changed(base.recipe, {**settings, "seed": seed}, typed=True)
    return Trial(recipe, arm.name, {**base.settings, **settings}, seed)


def _stand_in(cell: Cell, seed: int, number: int) -> Trial:
    """Return a trial of a cell's shape and a seed's slot that is none of the others."""
    seed = (seed + cell.recipe.stack * _STAND_IN * (number + 1)) % (1 << 62)
    return Trial(cell.recipe.model_copy(update={"seed": seed}), cell.arm, cell.settings, seed)
