"""Job scripts, whole: what a site's settings become for SLURM and for LSF, and that a shell reads what was meant."""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from widestep.study import lsf, slurm
from widestep.study.cluster import ArrayJob, Cluster

RECORDED = Path(__file__).parents[1] / "recorded"
JOB = ArrayJob(
    label="widestep-poster-0a1b2c-0",
    program=("/opt/env/bin/python", "-m", "widestep"),
    directory=Path("/scratch/me/studies/poster"),
    working_directory=Path("/home/me/work"),
    num_tasks=24,
    num_slots=6,
)
SMALL = Cluster(account="abc123", partition="batch", gpus_per_node=6, cpus_per_task=42, time_limit="2h", max_running=4)
SPANNING = Cluster(
    account="abc123",
    partition="batch",
    qos="normal",
    reservation="friday",
    constraint="gpu80&nvme",
    gres="nvme:1",
    gpus_per_node=6,
    cpus_per_task=7,
    memory="480G",
    nodes=40,
    tasks_per_node=6,
    time_limit="26h",
    exclusive=True,
    requeue=False,
    signal_seconds=300,
    lines=["--mail-type=END"],
    setup=["module load python", "source venv/bin/activate"],
)
LSF_LINES = {"lines": ['-alloc_flags "smt4"'], "qos": None, "constraint": None, "gres": None}


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("slurm/small.sh", lambda: slurm.job_script(SMALL, JOB)),
        ("slurm/spanning.sh", lambda: slurm.job_script(SPANNING, replace(JOB, num_slots=1, num_tasks=1))),
        ("slurm/bare.sh", lambda: slurm.job_script(Cluster(), replace(JOB, num_slots=1))),
        ("lsf/small.sh", lambda: lsf.job_script(SMALL, JOB)),
        ("lsf/spanning.sh", lambda: lsf.job_script(SPANNING.model_copy(update=LSF_LINES), replace(JOB, num_slots=1))),
    ],
)
def test_the_whole_script(name, script):
    assert script() == (RECORDED / name).read_text()


def test_relative_paths_of_data_start_where_they_started_here():
    script = slurm.job_script(SMALL, replace(JOB, data_directory=Path("/data sets")))
    lines = script.splitlines()
    assert lines.index("cd /home/me/work || exit 5") < lines.index("export WIDESTEP_DATA='/data sets'")
    assert "WIDESTEP_DATA" not in slurm.job_script(SMALL, JOB)


HOSTILE = "a b;$(touch PWNED)`touch PWNED`'\"\n#SBATCH --uid=0\n%A"


@pytest.mark.parametrize("module", [slurm, lsf])
def test_hostile_paths_are_only_paths(module, tmp_path):
    """Run by a shell: the launcher gets the words that were meant, where it was meant; nothing else happens."""
    work = tmp_path / HOSTILE.replace("/", "")
    work.mkdir()
    launcher = tmp_path / "srun"
    launcher.write_text(f'#!/bin/bash\n[ "$1" ] && printf "%s\\0" "$PWD" "$@" > {tmp_path}/words\n')
    launcher.chmod(0o755)
    (tmp_path / "jsrun").symlink_to(launcher)
    job = replace(JOB, working_directory=work, directory=work / "study", program=("python with space", "-m", "widestep"))
    text = module.job_script(Cluster(setup=["true"]), job)
    head, _, body = text.partition("\n\n")
    assert "PWNED" not in head
    assert not body.startswith("#")  # SLURM reads options up to the first command
    done = subprocess.run(
        ["bash", "-c", text],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "words").read_bytes().decode().split("\0")[:-1]
    assert words[0] == str(work)
    assert words[-8:] == ["python with space", "-m", "widestep", "study", "work", str(work / "study"), "--jobs", "6"]
    assert [path.name for path in tmp_path.rglob("PWNED")] == []


@pytest.mark.parametrize(
    ("code", "asked"), [(0, False), (75, True), (5, False)], ids=["done", "stopped and saved", "a fault of the machine"]
)
def test_a_task_that_was_stopped_queues_itself_again(tmp_path, code, asked):
    says = 'if [ "$1" = show ]; then echo "JobId=19 $3 JobState=$STATE"'
    for name, body in (("srun", f"exit {code}"), ("scontrol", f'{says}; else echo "$*" > {tmp_path}/asked; fi')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = replace(JOB, working_directory=tmp_path)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    environment |= {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    for cluster, state, expected in (
        (Cluster(), "RUNNING", asked),
        (Cluster(), "COMPLETING", False),  # somebody has cancelled it
        (Cluster(requeue=False), "RUNNING", False),
    ):
        environment["STATE"] = state
        text = slurm.job_script(cluster, job)
        assert subprocess.run(["bash", "-c", text], env=environment, check=False).returncode == code
        assert (tmp_path / "asked").exists() == expected
        if expected:
            assert (tmp_path / "asked").read_text() == "requeue 17_3\n"
            (tmp_path / "asked").unlink()


JSRUN = """#!/bin/bash
trap 'sleep 0.3; exit 75' USR1
touch begun
for _ in {1..2000}; do sleep 0.05; done
"""


@pytest.fixture
def lsf_script(tmp_path):
    """`lsf_script(change)` starts a job script for LSF, changed, whose jsrun saves for a moment when it gets a signal."""
    (tmp_path / "jsrun").write_text(JSRUN)
    (tmp_path / "jsrun").chmod(0o755)
    text = lsf.job_script(Cluster(), replace(JOB, working_directory=tmp_path))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    children = []

    def start(change=lambda text: text):
        children.append(subprocess.Popen(["bash", "-c", change(text)], env=environment, start_new_session=True))
        return children[-1]

    yield start
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def test_the_signal_of_lsf_is_handed_on_and_the_answer_waited_for(lsf_script, until, tmp_path):
    """The shell gets the signal in the middle of the run; the run saves, which takes a moment, and ends with 75."""
    child = lsf_script()
    until((tmp_path / "begun").exists, "the run has begun")
    child.send_signal(signal.SIGUSR1)
    assert child.wait(600) == 75


def test_a_signal_of_lsf_before_the_shell_knows_whom_to_tell(lsf_script):
    """It comes when jsrun runs, and its number is not yet written down."""
    begun = "until [ -e begun ]; do sleep 0.01; done; kill -USR1 $$\n"
    assert lsf_script(lambda text: text.replace("child=$!", begun + "child=$!")).wait(600) == 75


@pytest.mark.parametrize(("body", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 75", 75), ("kill -9 $$", 137)])
def test_the_code_of_jsrun_is_the_tasks(tmp_path, body, code):
    """However fast it ends; LSF queues a task again by it."""
    (tmp_path / "jsrun").write_text(f"#!/bin/bash\n{body}\n")
    (tmp_path / "jsrun").chmod(0o755)
    text = lsf.job_script(Cluster(), replace(JOB, working_directory=tmp_path))
    text = text.replace("wait $child", "sleep 0.1; wait $child", 1)  # it has ended by then
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", text], env=environment, check=False).returncode == code
