"""A site's settings, the array of equal tasks that works on a study there, and what every scheduler can be asked.

Settings of a site are execution, not recipe: they change no byte of a result and no fingerprint.
"""

import hashlib
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import Field, model_validator

from widestep.errors import StoreError
from widestep.files import explained, write_json
from widestep.plan.fields import Conflict, Fields, build
from widestep.plan.settings_file import SettingsFile, read_text
from widestep.plan.timespan import TimeField
from widestep.records.reading import read_record

SchedulerName = Literal["slurm", "lsf"]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][^\s\"'\\#$`]{0,199}$")]
_Directive = Annotated[str, Field(pattern=r"^-[^\n\r\x00]{1,300}$")]
_ShellLine = Annotated[str, Field(pattern=r"^[^\n\r\x00]{0,1000}$")]
_GPUS = re.compile(r"gpu(?::[^:,]+)?:(\d+)")


class Cluster(Fields):
    """How the jobs of a study are submitted at a site."""

    account: _Word | None = None
    """Account (SLURM) or project (LSF) that the time is charged to."""
    partition: _Word | None = None
    """Partition (SLURM) or queue (LSF)."""
    qos: _Word | None = None
    """Quality of service (SLURM)."""
    reservation: _Word | None = None
    """Reservation to run in."""
    constraint: Annotated[str, Field(pattern=r"^[A-Za-z0-9_\[(][^\s\"'\\#$`]{0,199}$")] | None = None
    """Features that nodes must have (SLURM), for example gpu80."""
    gres: _Word | None = None
    """Generic resources of a node (SLURM), for example gpu:a100:4."""
    gpus_per_node: int = Field(default=0, ge=0, le=1024)
    """GPUs of a node; each is a place for a trial or a stack of trials."""
    cpus_per_task: int = Field(default=1, ge=1, le=4096)
    """Cores of a task; without GPUs there is a place for a trial in every `threads` of them."""
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}[KMGT]?$")] | None = None
    """Memory of a node, for example 64G."""
    nodes: int = Field(default=1, ge=1, le=100_000)
    """Nodes that compute one trial together."""
    tasks_per_node: int = Field(default=1, ge=1, le=4096)
    """Processes on each node that compute one trial together; with more than one process in all, a task runs one trial, or
    stack of trials, at a time."""
    time_limit: TimeField | None = None
    """How long a task of the array may last: 30m, 2h, 1d. Before it is over, a task saves and queues itself again."""
    exclusive: bool = False
    """Share nodes with nobody."""
    requeue: bool = True
    """Let a task that was stopped, by its time limit or by jobs that come first, queue itself again."""
    max_array: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most tasks in one array; otherwise the site is asked."""
    max_running: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most tasks that may run at the same time."""
    signal_seconds: int = Field(default=120, ge=1, le=3600)
    """How long before the end of its time a task is told to save and stop."""
    lines: list[_Directive] = Field(default_factory=list)
    """Further options of sbatch or bsub, for example --mail-type=END."""
    setup: list[_ShellLine] = Field(default_factory=list)
    """Shell lines before the command, for example "module load python" or "source venv/bin/activate"."""

    @model_validator(mode="after")
    def _leaves_time(self) -> "Cluster":
        if self.time_limit is not None and self.time_limit < self.signal_seconds + 60:
            raise Conflict(
                ["time_limit", "signal_seconds"],
                f"A task must have a minute to compute before it is told to stop. time_limit is {self.time_limit:g}s and "
                f"signal_seconds {self.signal_seconds}; give more time, or less notice.",
            )
        return self

    @property
    def processes(self) -> int:
        """How many processes compute one trial together."""
        return self.nodes * self.tasks_per_node

    @property
    def gpus(self) -> int:
        """GPUs of a node, from either way to ask for them."""
        return self.gpus_per_node or sum(map(int, _GPUS.findall(self.gres or "")))

    def slots(self, threads: int, device: str) -> int:
        """Return how many trials, or stacks of them, one task runs at a time.

        Parameters
        ----------
        threads
            Cores that a trial computes on.
        device
            The study's: auto, cpu or cuda.
        """
        if self.processes > 1:
            return 1
        return self.gpus if self.gpus and device != "cpu" else max(1, self.cpus_per_task // threads)


def read_cluster(file: Path | None, options: dict[str, Any]) -> Cluster:
    """Return a site's settings from a TOML file, and from options that count more.

    Raises
    ------
    UsageError
        One sentence for each thing that does not fit, with its line.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if file is None:
        return build(Cluster, given, what="options of the cluster", typed=False)
    found = SettingsFile.parse(read_text(file), f"cluster {file}")
    build(Cluster, found.values, what=found.what, typed=True, line=found.line)
    return build(Cluster, {**found.values, **given}, what=found.what, typed=False, line=found.line)


@dataclass(frozen=True)
class ArrayJob:
    """An array of equal tasks, each of which works on a study until nothing is left for it.

    Parameters
    ----------
    label
        The study's name and the number of the submission: how the job is found again when the answer to its submission was
        lost.
    program
        How `widestep` is called.
    directory, working_directory
        Of the study, and where the command was given: paths in recipes are relative to that, or to `data_directory`.
    num_tasks
        Of the array.
    num_slots
        Trials, or stacks of trials, that each task runs at a time.
    data_directory
        Where relative paths of data sets start ($WIDESTEP_DATA), where that is set.
    """

    label: str
    program: tuple[str, ...]
    directory: Path
    working_directory: Path
    num_tasks: int
    num_slots: int
    data_directory: Path | None = None

    def command(self, cluster: Cluster) -> str:
        """Return the command of a task's processes, quoted for a shell."""
        alone = cluster.processes == 1
        jobs = ("--jobs", str(self.num_slots)) if alone else ()
        return shlex.join([*self.program, "study", "work", str(self.directory), *jobs])

    def preparation(self, cluster: Cluster) -> list[str]:
        """Return the shell lines before the command."""
        data = self.data_directory
        exports = ["export OMP_NUM_THREADS=1", *([] if data is None else [f"export WIDESTEP_DATA={shlex.quote(str(data))}"])]
        return [f"cd {shlex.quote(str(self.working_directory))} || exit 5", *cluster.setup, *exports]


@dataclass(frozen=True)
class Queue:
    """How many tasks of a study's jobs a scheduler still knows.

    Parameters
    ----------
    reason
        Why those that wait do so, in the scheduler's words.
    """

    pending: int = 0
    running: int = 0
    reason: str = ""

    @property
    def live(self) -> int:
        """Tasks that wait or run."""
        return self.pending + self.running


class Scheduler(Protocol):
    """What a study needs of a scheduler; every method may raise EnvironmentFault when it does not answer."""

    name: SchedulerName

    def script(self, cluster: Cluster, job: ArrayJob) -> str:
        """Return the job script."""
        ...

    def submit(self, script: Path, label: str) -> str:
        """Submit a script from the study's directory and return the job's number."""
        ...

    def queue(self, jobs: list[str]) -> Queue:
        """Return what is left of jobs."""
        ...

    def max_array(self) -> int:
        """Return how many tasks an array may have."""
        ...


def label_of(study: str, directory: Path, number: int) -> str:
    """Return the name of a study's submission: letters, digits, dot, underscore and hyphen, the same for no other study."""
    place = hashlib.sha256(str(directory).encode(errors="surrogateescape")).hexdigest()[:6]
    return f"widestep-{study}-{place}-{number}"


def arrays(num_tasks: int, largest: int) -> list[int]:
    """Split tasks into arrays that a site takes, the fewest and as equal as can be.

    Examples
    --------
    >>> arrays(2500, 1000)
    [834, 833, 833]
    """
    count = -(-num_tasks // largest)
    return [num_tasks // count + (index < num_tasks % count) for index in range(count)]


def note_log(directory: Path, names: list[str], log: str) -> None:
    """Keep in a study's directory which job's log tells of trials; `log` is FOLDER/logs/NAME, within the directory."""
    folder = (directory / log).parents[1] / "trials"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_json(folder / name, {"log": log})


def log_of(directory: Path, name: str) -> Path | None:
    """Return the log of the job that ran a trial last, or None when no job did."""
    for scheduler in get_args(SchedulerName):
        with suppress(StoreError, KeyError):
            found = read_record(directory / scheduler / "trials" / name, "which log tells of a trial")
            if found is not None:
                return directory / str(found["log"])
    return None
