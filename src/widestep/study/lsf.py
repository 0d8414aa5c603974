"""LSF: the text of a job script with the resource sets of jsrun, and what its commands say."""

from pathlib import Path

from widestep.study.cluster import ArrayJob, Cluster, Queue, SchedulerName
from widestep.study.commands import Commands

_WAITING = ("PEND", "PSUSP", "WAIT", "PROV")
_RUNNING = ("RUN", "USUSP", "SSUSP", "UNKWN", "ZOMBI")
_USUAL_ARRAY = 1_000


def job_script(cluster: Cluster, job: ArrayJob) -> str:
    """Return the text of a job script: the same for the same settings.

    LSF queues a task again that ends with the exit code of a run that was stopped and saved (`-Q 75`). The signal before the
    end of the time reaches the shell, which hands it on to jsrun.
    """
    lines = ["#!/bin/bash", *(f"#BSUB {option}" for option in _options(cluster, job)), "", *job.preparation(cluster)]
    lines.append('export WIDESTEP_JOB_LOG="lsf/logs/${LSB_JOBID}_${LSB_JOBINDEX}.out"')
    lines += ["child= asked=  # by a signal, perhaps before there is anybody to hand it on to"]
    lines += ["trap 'asked=1; [ -z \"$child\" ] || kill -USR1 $child' USR1 TERM"]
    lines.append(f"jsrun {_resource_sets(cluster)} {job.command(cluster)} &")
    lines += ['child=$!; [ -z "$asked" ] || kill -USR1 $child', "wait $child; code=$?"]
    lines += ["while kill -0 $child 2>/dev/null; do wait $child; code=$?; done  # a signal ends a wait"]
    lines += ["if [ $code -gt 128 ]; then wait $child 2>/dev/null; last=$?; [ $last -eq 127 ] || code=$last; fi"]
    return "\n".join([*lines, "exit $code"]) + "\n"


def _options(cluster: Cluster, job: ArrayJob) -> list[str]:
    at_once = "" if cluster.max_running is None else f"%{cluster.max_running}"
    minutes = None if cluster.time_limit is None else -(-round(cluster.time_limit) // 60)
    optional = {
        "P": cluster.account,
        "q": cluster.partition,
        "U": cluster.reservation,
        "M": cluster.memory,
        "W": None if minutes is None else f"{minutes // 60}:{minutes % 60:02}",
        "Q": "75" if cluster.requeue else None,
    }
    return [
        f'-J "{job.label}[1-{job.num_tasks}]{at_once}"',
        "-o lsf/logs/%J_%I.out",
        f"-nnodes {cluster.nodes}",
        *(f"-{name} {value}" for name, value in optional.items() if value is not None),
        *(["-x"] if cluster.exclusive else []),
        "-r" if cluster.requeue else "-rn",
        f"-wa USR1 -wt {-(-cluster.signal_seconds // 60)}",
        *cluster.lines,
    ]


def _resource_sets(cluster: Cluster) -> str:
    """Return jsrun's options: a resource set a process, with its share of a node's GPUs."""
    gpus = cluster.gpus // cluster.tasks_per_node
    return f"-n {cluster.processes} -r {cluster.tasks_per_node} -a 1 -c {cluster.cpus_per_task} -g {gpus} -b rs"


class Lsf:
    """LSF as its commands show it."""

    name: SchedulerName = "lsf"

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def script(self, cluster: Cluster, job: ArrayJob) -> str:
        """Return the job script."""
        return job_script(cluster, job)

    def submit(self, script: Path, label: str) -> str:
        """Submit a script from the study's directory and return the job's number."""
        found = ["bjobs", "-noheader", "-o", "jobid", "-J", label]
        return self._commands.submitted(["bsub"], script.parents[1], _number, found, stdin=script)

    def queue(self, jobs: list[str]) -> Queue:
        """Return what is left of jobs."""
        said = self._commands.said(["bjobs", "-noheader", "-o", "jobid stat delimiter='|'"])
        fields = [line.strip().split("|", 1) for line in said.splitlines() if line.count("|") == 1]
        states = [state for job, state in fields if job.split("[")[0] in jobs]
        return Queue(sum(state in _WAITING for state in states), sum(state in _RUNNING for state in states))

    def max_array(self) -> int:
        """Return how many tasks an array may have; LSF does not tell, and takes 1,000 unless the site changed it."""
        return _USUAL_ARRAY


def _number(said: str) -> str:
    """Return the number in `Job <123> is submitted to queue <batch>.`."""
    return said.partition("<")[2].partition(">")[0]
