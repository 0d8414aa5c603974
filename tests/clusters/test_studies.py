"""Studies on a real SLURM: packed, preempted, with failing and killed trials, on several nodes together."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from widestep.study.store import StudyStore

# One SLURM at a time.
pytestmark = [pytest.mark.processes, pytest.mark.timeout(1800), pytest.mark.xdist_group("slurm")]
STUDY = """
name = "small"
title = "Two warmups"
recipe = "digits"
seeds = [0, 1]
margin = 0.5
device = "cpu"
[set]
epochs = "EPOCHS"
train_images = 200
val_images = 50
grid = "2x1x10"
[arms.warm]
axes = { warmup = ["0ep", "1ep"] }
"""
PACKED = "cpus_per_task = 2\nmax_running = 1\nsignal_seconds = 20\n"
EPOCHS = "30ep"
"""Of trials that something happens to."""


@pytest.fixture
def cluster(slurm):
    yield slurm
    slurm.cancel_all()


@pytest.fixture
def command(cluster, tmp_path):
    """`command(STUDY, SETTINGS)`: the words of `study run` on the cluster; `start` or `run` them."""
    children = []

    class Command:
        directory = tmp_path / "small"

        def words(self, text, settings, *more):
            (tmp_path / "study.toml").write_text(text)
            (tmp_path / "site.toml").write_text(settings)
            words = ["study", "run", "study.toml", "--out", "small", "--no-report", *more]
            return words if "local" in more else [*words, "--on", "slurm", "--cluster", "site.toml"]

        def start(self, words):
            command = [sys.executable, "-m", "widestep", *words]
            pipe = subprocess.PIPE
            child = subprocess.Popen(
                command, env=dict(cluster.environment), cwd=tmp_path, stdout=pipe, stderr=pipe, text=True
            )
            children.append(child)
            return child

        def run(self, words):
            child = self.start(words)
            child.out, child.err = child.communicate(timeout=600)
            return child

        @property
        def store(self):
            return StudyStore.open(self.directory)

        def statuses(self):
            return sorted(state.status for state in self.store.states())

    yield Command()
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture(scope="module")
def undisturbed(program, tmp_path_factory):
    """The weights of the study's trials, made here by one process, by fingerprint."""
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "study.toml").write_text(STUDY.replace("EPOCHS", EPOCHS))
    done = program("study", "run", place / "study.toml", "--out", place / "small", "--jobs", "1", "--no-report")
    assert done.code == 0, done.stderr
    return weights(place / "small")


def weights(directory):
    files = sorted(directory.glob("trials/*/checkpoints/final.safetensors"))
    return {path.parents[1].name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def events(directory):
    """What happened to each trial."""
    files = sorted(directory.glob("trials/*/history.jsonl"))
    return {path.parent.name: [json.loads(line)["event"] for line in path.read_text().splitlines()] for path in files}


def under_way(directory):
    """Whether two trials have been trained for an epoch."""
    return sum(path.read_bytes().count(b"\n") > 1 for path in directory.glob("trials/*/epochs.csv")) >= 2


def test_a_study_is_packed_into_one_task_that_is_preempted(cluster, command, undisturbed, until, tmp_path):
    """Two trials at a time. A job that comes first takes the node; the task saves, queues itself again and goes on.

    Nobody who looks on notices, and the command given a second time submits nothing.
    """
    settings = f'{PACKED}lines = ["--nodelist=n1"]\n'
    words = command.words(STUDY.replace("EPOCHS", EPOCHS), settings)
    submitted = command.run([*words, "--submit-only"])
    assert submitted.returncode == 75, submitted.err
    assert "The jobs work by themselves" in submitted.err
    until(lambda: under_way(command.directory), "two trials are under way", 120)
    (tmp_path / "other").mkdir()
    cluster.submit("sleep 1\n", "--partition=high", "--exclusive", "--nodelist=n1", cwd=tmp_path / "other")
    followed = command.run(words)
    assert followed.returncode == 0, followed.err
    assert "they are followed, none is submitted" in followed.err
    assert weights(command.directory) == undisturbed
    assert len((command.directory / "slurm" / "jobs.jsonl").read_text().splitlines()) == 1
    happened = list(events(command.directory).values())
    assert ["started", "stopped", "resumed", "complete"] in happened


def test_one_task_is_stopped_alone_and_a_cancelled_one_stays_away(cluster, command, until):
    """The last task of an array, whose own number is that of the array, queues itself again and no other.

    What `scancel` ends saves and is not queued again, so a study can be stopped; the same command goes on with it.
    """
    words = command.words(STUDY.replace("EPOCHS", "150ep"), 'lines = ["--nodelist=n1"]\nsignal_seconds = 20\n')
    submitted = command.run([*words, "--submit-only"])
    assert submitted.returncode == 75, submitted.err
    job = json.loads((command.directory / "slurm" / "jobs.jsonl").read_text())["job"]
    begun = command.directory / "trials"
    until(lambda: len([*begun.glob("*/epochs.csv")]) == 4, "four trials are under way", 120)
    cluster.say("scancel", "--signal=USR1", f"{job}_3")
    until(lambda: "PENDING" in cluster.states(job), "the last task waits again")
    assert cluster.states(job).count("PENDING") == 1
    cluster.say("scancel", job)
    until(lambda: not cluster.states(job), "no task is left")
    assert sum("stopped" in one for one in events(command.directory).values()) >= 2
    again = command.run(words)
    assert again.returncode == 0, again.err
    assert command.statuses() == ["complete"] * 4


def test_trials_of_several_nodes_are_computed_together(cluster, command, undisturbed):
    """Two nodes compute each trial: the same bytes. Ctrl-C stops the look, not the jobs."""
    words = command.words(STUDY.replace("EPOCHS", EPOCHS), "nodes = 2\nmax_running = 1\n")
    child = command.start(words)
    while "submitted" not in (line := child.stderr.readline()):
        assert line
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == 75
    assert "No longer following. The jobs go on by themselves" in stderr
    again = command.run(words)
    assert again.returncode == 0, again.err
    assert weights(command.directory) == undisturbed
    environments = [json.loads(path.read_text()) for path in command.directory.glob("trials/*/environment.json")]
    assert [environment["processes"] for environment in environments] == [2] * 4


def test_of_twelve_trials_two_fail_and_one_is_killed_and_three_run_again(cluster, command, until):
    """Two trials find other files in their directories, and the processes of a third are shot; the rest is complete."""
    text = STUDY.replace("EPOCHS", EPOCHS).replace("[0, 1]", "[0, 1, 2, 3, 4, 5]")
    words = command.words(text, "cpus_per_task = 3\nmax_running = 1\nrequeue = false\n")
    first = command.start([*words, "--submit-only"])
    until((command.directory / "study.toml").exists, "the study has begun")
    store = command.store
    assert len(store.trials) == 12
    bad = [store.path(store.trials[number]) / "notes.txt" for number in (2, 7)]
    for path in bad:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("somebody's")
    first.communicate(timeout=600)
    victims = []

    def shot():
        running = [store.trials[int(number)] for number in (0, 1, 3, 4, 5, 6, 8, 9, 10, 11)]
        for trial in running:
            lease = store._claims.holder(trial.fingerprint)
            if lease and not victims and (store.path(trial) / "epochs.csv").exists():
                victims.append(trial)
                os.kill(lease.process, signal.SIGKILL)
        return victims

    until(shot, "a trial is shot", 240)
    until(lambda: not cluster.say("squeue", "--noheader"), "the jobs have ended", 240)
    ended = {state.trial.fingerprint for state in command.store.states() if state.finished}
    assert len(ended) in (9, 10)  # what was shot may have been taken up again by another worker
    before = events(command.directory)
    for path in bad:
        path.unlink()
    again = command.run(words)
    assert again.returncode == 0, again.err
    executed = {name for name, happened in events(command.directory).items() if happened != before.get(name)}
    assert executed == {trial.fingerprint for trial in store.trials} - ended
    assert command.statuses() == ["complete"] * 12
    note = (command.directory / "slurm" / "trials" / victims[0].fingerprint).read_text()
    assert re.search(r"slurm/logs/\d+_\d+\.out", note)


def test_a_node_that_is_lost_costs_nothing_but_time(cluster, command, undisturbed, until):
    """All processes of a node are killed, SLURM's own among them; the trials are taken up elsewhere by themselves."""
    words = command.words(STUDY.replace("EPOCHS", EPOCHS), "cpus_per_task = 2\nmax_running = 1\nrequeue = true\n")
    child = command.start(words)
    until(lambda: under_way(command.directory), "two trials are under way", 120)
    (job,) = {line.split()[1] for line in cluster.say("squeue", "-h", "-t", "R", "-o", "%A %N").splitlines()}
    number = int(job.removeprefix("n"))
    try:
        killed = cluster.processes_on(number, "study work") + cluster.processes_on(number, "slurm_script")
        assert len(killed) >= 3
        for process in killed:
            with contextlib.suppress(ProcessLookupError):  # it died with the one before
                os.kill(process, signal.SIGKILL)
        os.kill(cluster.node(number), signal.SIGKILL)
        _, stderr = child.communicate(timeout=600)
    finally:
        cluster.start_node(number)
    assert child.returncode == 0, stderr
    assert weights(command.directory) == undisturbed


SEARCH = (
    STUDY.replace('axes = { warmup = ["0ep", "1ep"] }', 'from_search = "tune"').replace("EPOCHS", "6ep")
    + """
[arms.tune.search]
over = { warmup = ["0ep", "4ep"], base_lr = [0.001, 0.1] }
num_trials = 6
seeds = [9]
at_a_time = 2
"""
)


def test_a_search_on_many_tasks_is_that_of_one_process(cluster, command, program, tmp_path):
    (tmp_path / "local.toml").write_text(SEARCH)
    done = program("study", "run", tmp_path / "local.toml", "--out", tmp_path / "local", "--jobs", "1", "--no-report")
    assert done.code == 0, done.stderr
    done = command.run(command.words(SEARCH, "max_running = 2\n"))
    assert done.returncode == 0, done.err
    assert command.statuses() == sorted(state.status for state in StudyStore.open(tmp_path / "local").states())
    assert weights(command.directory) == weights(tmp_path / "local")
    for path in (tmp_path / "local/search/tune").iterdir():
        assert (command.directory / "search/tune" / path.name).read_text() == path.read_text()
    assert {tuple(found) for found in events(command.directory).values()} <= {
        ("started", "complete"),
        ("started", "stopped"),
    }
