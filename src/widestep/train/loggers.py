"""Who else is told a run's numbers while it trains; whatever becomes of them, training goes on."""

from importlib.util import find_spec
from typing import Any, Protocol

from widestep.errors import EnvironmentFault
from widestep.plan.execution import Execution
from widestep.plan.services import SERVICES
from widestep.records.run import Run
from widestep.train.board import Board
from widestep.train.services import SERVICE_OF
from widestep.train.tracking import Tracker


class Logger(Protocol):
    """Is told on process 0 how a run trains: one strictly rising curve, however often the run is killed and resumed.

    No method raises, and none waits for long. Steps are numbers of steps taken, so the first is 1.

    Attributes
    ----------
    problem
        Why nothing more is logged, once something has failed.
    """

    problem: str | None

    def step(self, step: int, lr: float, loss: float) -> None:
        """Take the numbers of a step."""

    def epoch(self, step: int, accuracy: float, loss: float | None) -> None:
        """Take the numbers of an evaluation after a step."""

    def flush(self) -> None:
        """Let what was told so far outlast a kill: a state is about to be saved."""

    def finish(self, status: str) -> None:
        """End: the run is complete or diverged; or it has stopped, and may go on later. Further calls do nothing."""


def require_services(execution: Execution) -> None:
    """Refuse services whose package is not installed; raises EnvironmentFault."""
    for name in execution.log_to:
        if find_spec(SERVICES[name]) is None:
            raise EnvironmentFault(
                f"log_to names what is installed. The package {SERVICES[name]} is not; pip install 'widestep[{name}]', or "
                f"leave {name} out."
            )


def open_loggers(run: Run, execution: Execution, first_step: int) -> list[Logger]:
    """Return the loggers that an execution asks for, to go on after `first_step` steps.

    TensorBoard is written when it is wanted and its package is installed.
    """
    loggers: list[Logger] = []
    if execution.tensorboard and find_spec("tensorboard") is not None:
        loggers.append(Board(run.directory / "tensorboard", first_step))
    facts: dict[str, Any] = {**run.recipe.values(), "fingerprint": run.recipe.fingerprint}
    loggers += [Tracker(name, SERVICE_OF[name](run.directory, facts), run.directory) for name in execution.log_to]
    return loggers
