"""What somebody who watches training is told: a console, a search that gives trials up, or nobody."""

from dataclasses import dataclass
from typing import Protocol

from widestep.plan.runplan import RunPlan
from widestep.train.evaluate import Evaluation
from widestep.train.session import Session


@dataclass(frozen=True)
class StepReport:
    """How far training is, for whoever watches."""

    plan: RunPlan
    step: int
    loss: float
    lr: float
    images_per_second: float
    data_share: float
    """Share of the step's time in which the process waited for images."""
    progress: float
    """In steps of the schedule, as `RunPlan.length`."""


class Watcher(Protocol):
    """Somebody who is told about the progress; a console, or nobody."""

    def started(self, session: Session) -> None:
        """Called once everything is in place, before the first step."""

    def stepped(self, report: StepReport) -> None:
        """Called after every step."""

    def evaluated(self, plan: RunPlan, step: int, evaluation: Evaluation) -> None:
        """Called after every evaluation."""

    def noted(self, text: str) -> None:
        """Called once for everything that somebody who reads the results must know."""
