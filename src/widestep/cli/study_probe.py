"""The probe of `widestep study plan`: a few steps of each kind of stack, by as many processes as the study will have."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from widestep.cli.progress import say
from widestep.errors import Stopped, WidestepError, WorkerLost
from widestep.files import write_atomically
from widestep.plan.runplan import RunPlan
from widestep.records.environment import require_torch
from widestep.study.crew import visible_gpus
from widestep.study.estimate import ShapeCost, finished_costs
from widestep.study.store import StudyStore
from widestep.study.study import Trial
from widestep.study.work import execution_of, stacks

_SECONDS = 2.0
"""Of steps and evaluations for each kind of stack."""
_ERRORS = {kind.exit_code: kind for kind in WidestepError.__subclasses__()}


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Parameters
    ----------
    seconds
        That it took.
    costs
        Of each kind of stack that no finished trial tells of.
    """

    seconds: float
    costs: dict[str, ShapeCost]


def probe(store: StudyStore, run_plans: Mapping[str, RunPlan], num_jobs: int) -> Probe:
    """Train a few steps of each kind of stack that is left, in a temporary directory.

    Raises
    ------
    WidestepError
        As training would.
    """
    require_torch()
    began = time.monotonic()
    known = finished_costs(store, run_plans)
    kinds: dict[str, Sequence[Trial]] = {}
    for stack in stacks([state.trial for state in store.states() if not state.finished], store):
        if stack[0].recipe.stack_key not in known:
            kinds.setdefault(stack[0].recipe.stack_key, stack)
    say(f"probe      trains a few steps of {len(kinds)} kinds of stack, in a directory that is removed afterwards")
    with tempfile.TemporaryDirectory(prefix="widestep-probe-") as folder:
        directory = Path(folder)
        shares = [list(kinds)[number::num_jobs] for number in range(min(num_jobs, len(kinds)))]
        if "torch" in sys.modules:  # a test or a notebook: a process that may have computed is not copied
            for number, share in enumerate(shares):
                _measure(store, [kinds[kind] for kind in share], directory, number)
        else:
            _measure_at_once(store, [[kinds[kind] for kind in share] for share in shares], directory)
        costs = {path.stem: ShapeCost(**json.loads(path.read_text())) for path in directory.glob("*.json")}
    return Probe(time.monotonic() - began, costs)


def _measure_at_once(store: StudyStore, shares: Sequence[Sequence[Sequence[Trial]]], directory: Path) -> None:
    """Measure in processes of their own, which slow one another down as the workers of the study will."""
    children = []
    for number, share in enumerate(shares):
        child = os.fork()
        if child == 0:
            os._exit(_measured(store, share, directory, number))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        failure = directory / "failure"
        if failure.exists():
            code, words = json.loads(failure.read_text())
            raise _ERRORS[code](words)
        raise WorkerLost(f"A probe's processes must come to their end. One ended with {next(filter(None, codes))}.")


def _measured(store: StudyStore, share: Sequence[Sequence[Trial]], directory: Path, number: int) -> int:
    """Be a process of the probe; returns its exit code."""
    gpus = visible_gpus() if store.study.device != "cpu" else []
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        _measure(store, share, directory, number)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told by the process that is asked
        known = (error.exit_code, str(error)) if isinstance(error, WidestepError) else None
        said = known or (WorkerLost.exit_code, f"{type(error).__name__}: {error}")
        write_atomically(directory / "failure", json.dumps(said))
        return Stopped.exit_code
    return 0


def _measure(store: StudyStore, share: Sequence[Sequence[Trial]], directory: Path, number: int) -> None:
    from widestep.train.probe import measure

    execution = execution_of(store.study.device, compare_batchnorm=False)
    for stack in share:
        recipes = [trial.recipe for trial in stack]
        found = measure(recipes, execution, directory / f"runs-{number}", _SECONDS)
        write_atomically(directory / f"{recipes[0].stack_key}.json", json.dumps(asdict(found)))
