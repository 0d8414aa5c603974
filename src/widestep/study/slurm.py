"""SLURM: the text of a job script, and what its commands say. Whether a trial is done is never asked of it."""

from contextlib import suppress
from pathlib import Path

from widestep.errors import EnvironmentFault
from widestep.study.cluster import ArrayJob, Cluster, Queue, SchedulerName
from widestep.study.commands import Commands

_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "STOPPED", "SIGNALING", "RESIZING", "PREEMPTED")
_USUAL_ARRAY = 1_000


def job_script(cluster: Cluster, job: ArrayJob) -> str:
    """Return the text of a job script: the same for the same settings.

    It is submitted from the study's directory, so that no path stands where no shell would quote it. When SLURM asks to
    stop, the processes save and the step ends with 75; only what is still there when a grace time ends would be queued again
    by SLURM itself, so the script does it - unless the task is already completing: then somebody has cancelled it, or SLURM
    queues it again.
    """
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in _options(cluster, job)), ""]
    lines += ["trap : TERM USR1 USR2  # the processes save; this shell waits for them", *job.preparation(cluster)]
    lines.append(
        'task="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"  # the number of the last task alone means the whole array'
    )
    lines.append('export WIDESTEP_JOB_LOG="slurm/logs/$task.out"')
    cpus = f"--cpus-per-task={cluster.cpus_per_task}"
    lines.append(
        f"srun --nodes={cluster.nodes} --ntasks={cluster.processes} {cpus} --kill-on-bad-exit=1 {job.command(cluster)}"
    )
    lines.append("code=$?")
    if cluster.requeue:
        cancelled = 'scontrol show job "$task" | grep -q JobState=COMPLETING'
        lines.append(f'if [ $code -eq 75 ] && ! {cancelled}; then scontrol requeue "$task"; fi')
    return "\n".join([*lines, "exit $code"]) + "\n"


def _options(cluster: Cluster, job: ArrayJob) -> list[str]:
    at_once = "" if cluster.max_running is None else f"%{cluster.max_running}"
    optional = {
        "account": cluster.account,
        "partition": cluster.partition,
        "qos": cluster.qos,
        "reservation": cluster.reservation,
        "constraint": cluster.constraint,
        "gres": cluster.gres,
        "gpus-per-node": cluster.gpus_per_node or None,
        "mem": cluster.memory,
        "time": None if cluster.time_limit is None else _time(cluster.time_limit),
    }
    return [
        f"--job-name={job.label}",
        f"--array=0-{job.num_tasks - 1}{at_once}",
        "--output=slurm/logs/%A_%a.out",
        "--open-mode=append",
        f"--nodes={cluster.nodes}",
        f"--ntasks-per-node={cluster.tasks_per_node}",
        f"--cpus-per-task={cluster.cpus_per_task}",
        *(f"--{name}={value}" for name, value in optional.items() if value is not None),
        *(["--exclusive"] if cluster.exclusive else []),
        "--requeue" if cluster.requeue else "--no-requeue",
        f"--signal=USR1@{cluster.signal_seconds}",
        *cluster.lines,
    ]


def _time(seconds: float) -> str:
    """Return a time limit as D-HH:MM:SS.

    Examples
    --------
    >>> _time(93_600)
    '1-02:00:00'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:{rest:02}"


class Slurm:
    """SLURM as its commands show it."""

    name: SchedulerName = "slurm"

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def script(self, cluster: Cluster, job: ArrayJob) -> str:
        """Return the job script."""
        return job_script(cluster, job)

    def submit(self, script: Path, label: str) -> str:
        """Submit a script from the study's directory and return the job's number.

        When an answer was lost, the queue tells whether the job is there: it is not submitted twice.
        """
        words = ["sbatch", "--parsable", str(script)]
        found = ["squeue", "--noheader", "--me", f"--name={label}", "--format=%F"]
        return self._commands.submitted(words, script.parents[1], lambda text: text.split(";")[0].strip(), found)

    def queue(self, jobs: list[str]) -> Queue:
        """Return what is left of jobs; SLURM forgets those that have ended."""
        said = self._commands.said(["squeue", "--noheader", "--me", "--array", "--format=%F|%T|%r"])
        fields = [line.strip().split("|", 2) for line in said.splitlines() if line.count("|") >= 2]
        states = [(state, reason) for job, state, reason in fields if job in jobs]
        waiting = ["" if reason == "None" else reason for state, reason in states if state in _WAITING]
        running = sum(state in _RUNNING for state, _ in states)
        return Queue(len(waiting), running, waiting[0] if waiting else "")

    def max_array(self) -> int:
        """Return how many tasks an array may have: as many as MaxArraySize where SLURM is, otherwise what is usual."""
        with suppress(EnvironmentFault):
            for line in self._commands.said(["scontrol", "show", "config"]).splitlines():
                name, _, value = line.partition("=")
                if name.strip() == "MaxArraySize" and value.strip().isdecimal():
                    return max(1, int(value))
        return _USUAL_ARRAY


def _number(said: str) -> str:
    """Return the number in `123` or, where there are several clusters, `123;cluster`."""
    return said.partition(";")[0].strip()
