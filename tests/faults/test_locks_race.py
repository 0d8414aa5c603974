"""Many starts on one directory at the same moment: exactly one runs (rows 52, 54; G12)."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
NUM_ROUNDS = 50 if LONG else 6
NUM_STARTERS = 8

RACE = """
import os, sys
from pathlib import Path
from widestep.errors import DirectoryInUse
from widestep.plan.recipe import Recipe
from widestep.records.run import Run

directory, num_starters = Path(sys.argv[1]), int(sys.argv[2])
go, ready = os.pipe()      # closed to let all start at once
done, leave = os.pipe()    # closed once all have tried
children = []
tried, report = os.pipe()
for _ in range(num_starters):
    child = os.fork()
    if child == 0:
        os.close(ready), os.close(leave)
        os.read(go, 1)
        run, code = Run(directory, Recipe(seed=3)), 99
        try:
            run.open({})
            code = 0
        except DirectoryInUse as error:
            code = 7 if "is held by host" in str(error) and "wait for it" in str(error) else 98
        finally:
            os.write(report, b"x")
            if code == 0:
                os.read(done, 1)
                run.close()
            os._exit(code)
    children.append(child)
os.close(ready)
for _ in children:
    os.read(tried, 1)
os.close(leave)
print(*sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.parametrize("locks", ["kernel", "none"])
def test_of_eight_starters_exactly_one_runs(program: Any, locks: str, tmp_path: Path) -> None:  # rows 52, 55, G12
    text = RACE
    if locks == "none":
        refuse = "import errno, fcntl\ndef lockf(*_):\n    raise OSError(errno.ENOLCK, 'none')\nfcntl.lockf = lockf\n"
        text = refuse + RACE.replace('and "wait for it" in str(error) ', "")
    for number in range(NUM_ROUNDS):
        directory = tmp_path / (f"run{number}" if number % 2 else "again")  # where nobody was, and where somebody was
        command = [sys.executable, "-c", text, str(directory), str(NUM_STARTERS)]
        done = subprocess.run(command, env=program.environment(), capture_output=True, text=True, check=False, timeout=600)
        assert (done.stdout, done.stderr) == (" ".join(["0"] + ["7"] * (NUM_STARTERS - 1)) + "\n", "")


@pytest.mark.processes
def test_of_commands_at_once_one_runs_and_the_others_say_who(
    program: Any, options: Any, until: Any, power_cut: Any, tmp_path: Path
) -> None:  # row 52
    words = ["train", *options({"recipe": "digits", "epochs": "9999", "tensorboard": "false", "out": tmp_path / "run"})]
    children = [program.start(*words) for _ in range(8 if LONG else 3)]
    try:
        until(lambda: sum(child.poll() is None for child in children) == 1, "all but one give up")
        for child in children:
            if child.poll() is not None:
                _, said = child.communicate()
                assert child.returncode == 7
                assert said.splitlines()[-1].startswith("widestep: One job at a time works in a run directory.")
        until((tmp_path / "run/history.jsonl").exists, "the other one runs")
    finally:
        for child in children:
            power_cut(child)


@pytest.mark.processes
def test_a_job_that_slept_while_another_took_over_writes_nothing_more(
    program: Any, options: Any, until: Any, tmp_path: Path
) -> None:  # row 54
    """Stopped, its lock file removed by a person who thought it dead, another job begun, and then it wakes up."""
    directory = tmp_path / "run"
    fields = {"recipe": "digits", "checkpoint_every": "20st", "tensorboard": "false", "out": directory}
    first = program.start("train", *options({**fields, "epochs": "200"}))
    second = None
    try:
        until(lambda: len(list((directory / "checkpoints").glob("step-*"))) >= 2, "two saves")
        os.kill(first.pid, signal.SIGSTOP)
        (directory / ".lock").unlink()
        second = program.start("train", *options({**fields, "epochs": "200"}))
        until(lambda: (directory / "history.jsonl").read_text().count("resumed") == 1, "the second job goes on")
        os.kill(first.pid, signal.SIGCONT)
        _, said = first.communicate(timeout=600)
        assert first.returncode == 7
        assert "A run directory has one writer." in said.splitlines()[-1]
        assert "Traceback" not in said
        os.kill(second.pid, signal.SIGTERM)
        second.communicate(timeout=600)
        assert second.returncode == 75
    finally:
        for child in (first, second):
            if child is not None and child.poll() is None:
                child.kill()
                child.wait()
    steps = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(len(steps))), "what the sleeper had in memory is not in the records"
