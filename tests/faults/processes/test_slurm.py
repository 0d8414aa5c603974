"""Training under a real SLURM: the same bytes as one process, through requeues, preemption and the end of a job's time."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running_jobs import steps_saved

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("slurm")]  # one SLURM at a time
SLOW = {"process": 0, "step": 1, "how": "slow", "phase": "computing", "seconds": 0.15}


@pytest.fixture
def cluster(slurm: Any) -> Any:
    yield slurm
    slurm.cancel_all()


def test_processes_on_two_nodes_write_the_bytes_of_one(cluster: Any, job: Any, uninterrupted: Any) -> None:
    """Nobody says where process 0 is: the nodes' names are known to SLURM alone."""
    said = cluster.say("srun", "--nodes=2", "--ntasks=3", sys.executable, *job.words())
    assert "complete" in said
    uninterrupted(job.directory)


def test_doctor_shows_the_layout(cluster: Any, tmp_path: Path) -> None:
    words = ["-m", "widestep", "doctor", "--json", "--out", tmp_path]
    found = json.loads(cluster.say("srun", "--nodes=2", "--ntasks=2", sys.executable, *words))
    facts = {fact["name"]: fact for fact in found["facts"]}
    assert (found["launcher"], found["num_processes"]) == ("srun", 2)
    assert "2 by srun on 1 host(s), met at n" in facts["processes"]["text"]


def test_a_requeued_job_goes_on(cluster: Any, job: Any, until: Any, uninterrupted: Any, tmp_path: Path) -> None:
    """Row 24: the log is appended to, the attempt counted, and the bytes are those of a run that nothing happened to."""
    job.fail_at(**SLOW)
    number = cluster.submit(
        f"echo restart ${{SLURM_RESTART_COUNT:-0}}\nsrun {shlex.join([sys.executable, *job.words()])}\n",
        "--ntasks=2",
        "--requeue",
        cwd=tmp_path,
    )
    until(lambda: steps_saved(job.directory) >= 5, "five steps", 180)
    cluster.say("scontrol", "requeue", number)
    until(lambda: not cluster.states(number), "the job has ended", 180)
    output = (tmp_path / "out").read_text()
    assert output.index("restart 0") < output.index("Stopped by SIGTERM") < output.index("restart 1")
    assert [event["event"] for event in job.events] == ["started", "stopped", "resumed", "complete"]
    uninterrupted(job.directory)


def test_a_preempted_job_goes_on(cluster: Any, job: Any, until: Any, uninterrupted: Any, tmp_path: Path) -> None:
    """A job of a partition that comes first takes the node; within the grace time this one has saved and is queued again.

    SLURM only requeues by itself what is still there when the grace time ends.
    """
    job.fail_at(**SLOW)
    again = "code=$?\n[ $code -ne 75 ] || scontrol requeue $SLURM_JOB_ID\nexit $code\n"
    script = f"srun {shlex.join([sys.executable, *job.words()])}\n{again}"
    number = cluster.submit(script, "--ntasks=2", "--requeue", "--nodelist=n1", cwd=tmp_path)
    until(lambda: steps_saved(job.directory) >= 5, "five steps", 180)
    (tmp_path / "other").mkdir()
    other = cluster.submit("sleep 1\n", "--partition=high", "--exclusive", "--nodelist=n1", cwd=tmp_path / "other")
    until(lambda: not cluster.states(other) and not cluster.states(number), "both jobs have ended", 180)
    assert [event["event"] for event in job.events] == ["started", "stopped", "resumed", "complete"]
    uninterrupted(job.directory)


def test_the_end_of_the_time_is_known_early(cluster: Any, job: Any, until: Any, tmp_path: Path) -> None:
    """This SLURM sets no variable for it: process 0 asks. The command is over, and saved, before SLURM ends anything.

    The job has 45 s, more than a busy machine needs to start the command, and fewer than its forty steps take.
    """
    job.fail_at(**{**SLOW, "seconds": 2.0})
    shorten = "scontrol update JobId=$SLURM_JOB_ID EndTime=now+45"
    script = f"{shorten}\nsrun {shlex.join([sys.executable, *job.words()])}\necho code $?\n"
    number = cluster.submit(script, "--ntasks=2", "--time=1", cwd=tmp_path)
    until(lambda: not cluster.states(number), "the job has ended", 180)
    output = (tmp_path / "out").read_text()
    assert "Stopped by the end of the job" in output, output
    assert "code 75" in output, output
    assert [event["event"] for event in job.events] == ["started", "stopped"]


def test_a_lost_node_is_named(cluster: Any, job: Any, until: Any) -> None:
    job.fail_at(**SLOW)
    words = ["srun", "--nodes=2", "--nodelist=n1,n2", "--ntasks=2", "--kill-on-bad-exit=0", sys.executable, *job.words()]
    pipe = subprocess.PIPE
    child = subprocess.Popen(words, env=dict(cluster.environment), stdout=pipe, stderr=pipe, text=True)
    until(lambda: steps_saved(job.directory) >= 5, "five steps", 180)
    (other,) = cluster.processes_on(2, str(job.directory))
    os.kill(other, signal.SIGKILL)
    _, stderr = child.communicate(timeout=600)
    assert "Process 0 lost process 1 on n2 at step " in stderr
