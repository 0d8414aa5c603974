"""The processes of a study on this machine: how many, on which devices, how far, and what remains of one that dies."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from widestep.errors import WorkerLost
from widestep.study import crew
from widestep.study.crew import Crew, ProgressMeter, default_processes, visible_gpus
from widestep.study.estimate import plans

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("chosen", "found"),
    [("", []), ("-1", []), ("0", ["0"]), ("2,5", ["2", "5"]), (" 0, 1 ", ["0", "1"]), ("GPU-8f2a,3", ["GPU-8f2a", "3"])],
)
def test_gpus_chosen_by_the_user(monkeypatch, chosen, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == found


@pytest.mark.parametrize("number", [0, 3])
def test_gpus_of_the_machine(monkeypatch, tmp_path, number):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("null", "nvidiactl", "nvidia-uvm", "nvidia-caps", *(f"nvidia{index + 2}" for index in range(number))):
        (tmp_path / name).touch()
    monkeypatch.setattr(crew, "_DEVICES", tmp_path)
    assert visible_gpus() == [str(index) for index in range(number)]


@pytest.mark.parametrize(
    ("gpus", "cores", "threads", "device", "expected"),
    [
        ("", 8, 1, "auto", 8),
        ("", 8, 3, "auto", 2),
        ("", 2, 4, "auto", 1),
        ("0,1,2", 8, 1, "auto", 3),
        ("0,1,2", 8, 1, "cuda", 3),
        ("0,1,2", 8, 1, "cpu", 8),
    ],
)
def test_processes_for_this_machine(monkeypatch, gpus, cores, threads, device, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert default_processes(threads, device) == expected


def test_progress_is_counted_in_images(make, fake):
    """12 trials of 36 epochs: one complete, one diverged, one at 9 of 36, one stopped at 18, one failed at 30."""
    store = make()
    trials = store.trials
    meter = ProgressMeter(store, plans(trials))
    assert meter.read() == crew.StudyProgress(12, 0, 0, 0, 0.0)
    fake.finish(store.run(trials[0]))
    fake.finish(store.run(trials[1]), "diverged")
    for trial, num_epochs in ((trials[2], 9), (trials[3], 18), (trials[4], 30)):
        fake.begin(store.run(trial))
        (store.path(trial) / "epochs.csv").write_text("a row\n" * (1 + num_epochs))
    store.claim([trials[2]])
    store.fail(trials[4], "broke down")
    progress = meter.read()
    assert (progress.num_trials, progress.num_finished, progress.num_running, progress.num_failed) == (12, 2, 1, 1)
    assert progress.share == pytest.approx((1 + 1 + 9 / 36 + 18 / 36) / 12)


def test_progress_weighs_long_runs_more(make, fake):
    store = make(("axes = { warmup", "set = { warmup_power = 1.0 }\naxes = { warmup"), ("[claims.worst]", LONG))
    long = [trial for trial in store.trials if trial.arm == "long"]
    assert len(long) == 4
    meter = ProgressMeter(store, plans(store.trials))
    for trial in long:
        fake.finish(store.run(trial))
    assert meter.read().share == pytest.approx(4 * 108 / (4 * 108 + 12 * 36))
    assert meter.read().num_finished == 4


LONG = '[arms.long]\nset = { epochs = "108ep" }\n\n[claims.worst]'


def test_what_is_finished_is_not_read_again(make, fake):
    store = make()
    meter = ProgressMeter(store, plans(store.trials))
    fake.finish(store.run(store.trials[0]))
    assert meter.read().num_finished == 1
    (store.path(store.trials[0]) / "result.json").unlink()
    assert meter.read() == crew.StudyProgress(12, 1, 0, 0, pytest.approx(1 / 12))


@pytest.fixture
def hire(make, program, monkeypatch, tmp_path):
    """`hire(fate, number)` makes a crew of fake workers; returns the study, the crew and the file of their starts."""
    popen = subprocess.Popen

    def fake_worker(command, env, **options):
        assert command[1:5] == ["-m", "widestep", "study", "work"]
        passed = {name: env[name] for name in ("CUDA_VISIBLE_DEVICES", "WIDESTEP_PARENT") if name in env}
        assert passed["WIDESTEP_PARENT"] == str(os.getpid())
        program_file = [command[0], str(HERE / "fake_worker.py"), command[5]]
        return popen(program_file, env=program.environment(**passed), stderr=subprocess.DEVNULL, **options)

    monkeypatch.setattr(crew.subprocess, "Popen", fake_worker)
    monkeypatch.setattr(crew, "_POLL_SECONDS", 0.005)

    def hired(fate, number=1, device="cpu", *changes):
        store = make(*changes)
        (tmp_path / "fate").write_text(json.dumps(fate(store.trials)))
        return store, Crew(store, number, device), tmp_path / "starts"

    return hired


def statuses(store):
    return [state.status for state in store.states()]


def test_a_crew_sees_a_study_through(hire):
    shown = []
    store, hired, starts = hire(lambda trials: {}, 2)
    assert hired.watch(lambda: shown.append(1)) is None
    assert statuses(store) == ["complete"] * 12
    assert starts.read_text() == "\n\n"
    assert len(shown) > 3


def test_each_worker_has_a_gpu_of_its_own(hire, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    _, hired, starts = hire(lambda trials: {}, 2, "auto")
    hired.watch(lambda: None)
    assert sorted(starts.read_text().split()) == ["4", "7"]


@pytest.mark.parametrize(
    ("fate", "num_deaths", "reason"),
    [
        (signal.SIGKILL, 4, "the process that ran it ended with SIGKILL; perhaps out of memory"),
        (signal.SIGSEGV, 2, "the process that ran it ended with SIGSEGV; perhaps out of memory"),
        ("9", 2, "the process that ran it ended with exit code 9; perhaps out of memory"),
    ],
)
def test_a_worker_that_dies_leaves_a_failed_trial_and_is_replaced(hire, fate, num_deaths, reason):
    store, hired, starts = hire(lambda trials: {trials[0].fingerprint: fate, trials[7].fingerprint: fate})
    assert hired.watch(lambda: None) is None
    found = {state.trial.fingerprint: state for state in store.states()}
    for index, trial in enumerate(store.trials):
        state = found[trial.fingerprint]
        assert (state.status, state.reason) == (("failed", reason) if index in (0, 7) else ("complete", None))
    assert starts.read_text() == "\n" * (1 + num_deaths)
    assert store.forget_failures() == 2


def test_a_trial_that_was_killed_is_taken_up_again_by_the_same_crew(hire):
    """Two are killed once, one fails in earnest: one more start for each, and only the last has failed."""
    store, hired, starts = hire(
        lambda trials: {
            trials[0].fingerprint: [signal.SIGKILL],
            trials[7].fingerprint: [signal.SIGKILL],
            trials[8].fingerprint: "9",
        }
    )
    assert hired.watch(lambda: None) is None
    assert [state.trial for state in store.states() if state.status == "failed"] == [store.trials[8]]
    assert statuses(store).count("complete") == 11
    assert starts.read_text() == "\n" * 4
    assert "ended with SIGKILL; perhaps out of memory; it is taken up again" in log_of(store, 7)
    assert "failed: the process that ran it ended with exit code 9" in log_of(store, 8)


def log_of(store, index):
    return (store.path(store.trials[index]) / "log.txt").read_text()


def test_a_worker_that_dies_leaves_its_whole_stack_and_no_more(hire):
    stack = ("[arms.warm]", "[set]\nstack = 4\n\n[arms.warm]")
    store, hired, _ = hire(lambda trials: {trials[5].fingerprint: signal.SIGKILL}, 1, "cpu", stack)
    hired.watch(lambda: None)
    assert sorted(statuses(store)) == ["complete"] * 8 + ["failed"] * 4


@pytest.mark.parametrize("fate", [signal.SIGKILL, "5"])
def test_workers_that_cannot_start_are_an_error(hire, fate):
    store, hired, starts = hire(lambda trials: {"start": fate}, 2)
    how = "SIGKILL" if fate == signal.SIGKILL else "exit code 5"
    with pytest.raises(WorkerLost, match=f"must start. One ended with {how} before it took a trial"):
        hired.watch(lambda: None)
    assert statuses(store) == ["missing"] * 12
    assert starts.read_text() == "\n\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_the_workers(hire, number, until):
    store, hired, _ = hire(lambda trials: {trial.fingerprint: "wait" for trial in trials}, 2)
    before = signal.getsignal(number)

    def send():
        until(lambda: statuses(store).count("running") == 2, "both workers have taken a trial")
        until(lambda: signal.getsignal(number) != before, "this process expects a signal")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    assert hired.watch(lambda: None) == number
    thread.join()
    assert sorted(statuses(store)) == ["missing"] * 10 + ["stopped"] * 2
    assert signal.getsignal(number) == before


def test_an_impatient_user_leaves_no_worker_behind(hire):
    store, hired, _ = hire(lambda trials: {trial.fingerprint: "wait" for trial in trials}, 2)

    def leave():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hired.watch(leave)
    assert "running" not in statuses(store)
