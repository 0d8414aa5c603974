"""Commands of SLURM and LSF that fail for a while, lose answers or refuse: stubs that answer as they do (row 99)."""

from pathlib import Path

import pytest

from widestep.errors import EnvironmentFault
from widestep.study.cluster import Queue
from widestep.study.commands import Commands
from widestep.study.lsf import Lsf
from widestep.study.slurm import Slurm


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """`commands(sbatch=[...], squeue=[...])`: what each call answers, in turn, the last one for ever; and the pauses.

    An answer is text, or a number of a failure with text: (1, "Socket timed out").
    """
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    waited = []

    def stub(**answers):
        for name, said in answers.items():
            folder = tmp_path / name
            folder.mkdir()
            for number, answer in enumerate(said):
                code, text = answer if isinstance(answer, tuple) else (0, answer)
                (folder / str(number)).write_text(text)
                (folder / f"{number}.code").write_text(str(code))
            body = (
                f'#!/bin/bash\ncd {folder}; n=$(ls -1 | grep -c called); touch called$n; echo "$@" >> asked\n'
                f"[ -e $n ] || n={len(said) - 1}\nc=$(cat $n.code)\n"
                "if [ $c = 0 ]; then cat $n; else cat $n >&2; fi; exit $c\n"
            )
            path = tmp_path / "bin" / name
            path.write_text(body)
            path.chmod(0o755)
        return Commands(waited.append), waited

    return stub


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "study" / "slurm" / "array-0.sh"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/bash\n")
    return path


def num_calls(tmp_path, name):
    return len(list((tmp_path / name).glob("called*")))


TIMED_OUT = (1, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")


def test_sbatch_is_tried_again(commands, script, tmp_path):
    with_commands, waited = commands(sbatch=[TIMED_OUT, TIMED_OUT, "12;one\n"], squeue=[""])
    assert Slurm(with_commands).submit(script, "widestep-x-0") == "12"
    assert num_calls(tmp_path, "sbatch") == 3
    assert waited == [0.0, 1.0, 4.0]
    assert (tmp_path / "sbatch" / "asked").read_text().splitlines()[0] == f"--parsable {script}"


def test_a_job_whose_number_was_lost_is_found_and_not_submitted_twice(commands, script, tmp_path):
    with_commands, _ = commands(sbatch=[TIMED_OUT, "13\n"], squeue=["12\n12\n12\n"])
    assert Slurm(with_commands).submit(script, "widestep-x-0") == "12"
    assert num_calls(tmp_path, "sbatch") == 1
    assert "--name=widestep-x-0" in (tmp_path / "squeue" / "asked").read_text()


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: invalid partition specified: hgih",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    ],
)
def test_a_refusal_is_told_at_once(commands, script, tmp_path, words):
    with_commands, waited = commands(sbatch=[(1, words)], squeue=[""])
    with pytest.raises(EnvironmentFault, match=r"The scheduler must answer sbatch. It said: sbatch: error"):
        Slurm(with_commands).submit(script, "widestep-x-0")
    assert num_calls(tmp_path, "sbatch") == 1
    assert waited == [0.0]


def test_sbatch_that_never_works_is_given_up(commands, script, tmp_path):
    with_commands, waited = commands(sbatch=[TIMED_OUT], squeue=[""])
    with pytest.raises(EnvironmentFault, match=r"Socket timed out on send/recv operation. Mend it"):
        Slurm(with_commands).submit(script, "widestep-x-0")
    assert num_calls(tmp_path, "sbatch") == 5
    assert waited == [0.0, 1.0, 4.0, 15.0, 60.0]


def test_no_scheduler_here(tmp_path, monkeypatch, script):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        EnvironmentFault, match=r"sbatch cannot be run: No such file or directory. Log in to a node that has it"
    ):
        Slurm(Commands()).submit(script, "widestep-x-0")


def test_the_queue_of_slurm(commands):
    said = (
        "12|RUNNING|None\n12|RUNNING|None\n12|PENDING|Priority\n12|COMPLETING|None\n13|PENDING|BeginTime\n99|RUNNING|None\n"
    )
    with_commands, waited = commands(squeue=[(1, "slurm_load_jobs error: Unable to contact slurm controller"), said])
    assert Slurm(with_commands).queue(["12", "13"]) == Queue(2, 3, "Priority")
    assert waited == [1.0]


def test_the_largest_array_of_slurm(commands):
    with_commands, _ = commands(
        scontrol=["Configuration data as of 2026\nMaxArraySize            = 1001\nMaxJobCount = 10000\n"]
    )
    assert Slurm(with_commands).max_array() == 1001


def test_bsub_reads_the_script_and_says_a_number(commands, script, tmp_path):
    with_commands, _ = commands(
        bsub=["Job <4711> is submitted to queue <batch>.\n"], bjobs=["4711[1]|RUN\n4711[2]|PEND\n9|RUN\n"]
    )
    (tmp_path / "bin" / "bsub").write_text(
        f"#!/bin/bash\ncat > {tmp_path}/read; pwd > {tmp_path}/where\necho 'Job <4711> is submitted to queue <batch>.'\n"
    )
    scheduler = Lsf(with_commands)
    assert scheduler.submit(script, "widestep-x-0") == "4711"
    assert (tmp_path / "read").read_text() == script.read_text()
    assert Path((tmp_path / "where").read_text().strip()) == script.parents[1]
    assert scheduler.queue(["4711"]) == Queue(1, 1)
