"""Which study a command line means, and how many of its runs take place at a time."""

from pathlib import Path
from typing import Literal

from widestep.errors import UsageError
from widestep.study import study as definition
from widestep.study.crew import default_processes
from widestep.study.study import Study

Until = Literal["decided"]


def wanted_study(
    study: str, out: Path | None, seeds: int | None, fields: dict[str, str], until: Until | None
) -> tuple[Path, Study]:
    """Return the directory and the definition of the study that a command line means."""
    found = definition.parse(definition.source_text(study), f"study {study}", is_new=True)
    settings = {name.lstrip("-").replace("-", "_"): value for name, value in fields.items()}
    changed = definition.changed(found, seeds=seeds, settings=settings, is_sequential=until == "decided")
    return out or Path("studies") / found.name, changed


def num_jobs_of(study: Study, jobs: int | None) -> int:
    """Return how many runs, or stacks of runs, take place at a time."""
    if jobs is not None and jobs < 1:
        raise UsageError(f"At least one run takes place at a time. --jobs is {jobs}; give 1 or more, or leave it out.")
    return jobs or default_processes(max(c.recipe.threads for arm in study.arms for c in study.cells(arm)), study.device)


def refuse_without_files(study: Study) -> None:
    """Raise UsageError where a study is about images of which only the counts are known."""
    if any(cell.recipe.data == "imagenet" for arm in study.arms for cell in study.cells(arm)):
        raise UsageError(
            "A study needs the files of its data set. Its recipe names imagenet, which is not shipped; give the folder that "
            "holds train and val with --data folder:PATH."
        )
