"""Rows 93 to 95 and G12: several runners on one study, killed at any time, leave the table of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from study_texts import WARMUPS_FALL

from widestep.cli.main import run
from widestep.study.store import StudyStore
from widestep.study.study import parse

LONG = os.environ.get("WIDESTEP_CHAOS") == "long"
HERE = Path(__file__).parent
STUDY = f"""
name = "twelve"
title = "Three warmups, four seeds, and poison"
recipe = "digits"
seeds = [0, 1, 2, 3]
margin = 0.5
[set]
stack = 2
[arms.warm]
axes = {{ warmup = ["0ep", "1ep", "2ep"] }}{WARMUPS_FALL}"""
POISON = "[arms.poison]\naxes = { momentum = [0.1, 0.2, 0.3] }\n[claims.falls]"


@pytest.fixture
def begin(tmp_path):
    return lambda name, text=STUDY: StudyStore.create(tmp_path / name, parse(text))


@pytest.fixture
def start(program):
    """`start(store)` starts a runner, which may be one of a number that begin together; none outlives the test."""
    children = []

    def started(store, number=1):
        words = [HERE / "study_worker_program.py", store.directory, f"{store.directory}.log", number]
        words = [sys.executable, *map(str, words)]
        null = subprocess.DEVNULL
        child = subprocess.Popen(words, env=program.environment(), stdout=subprocess.PIPE, stderr=null, text=True)
        children.append(child)
        return child

    yield started
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def tables(store, capsys):
    """Everything that is made of the trials' outcomes: the table, the findings and the numbers of the figure."""
    code = run(["study", "retry", str(store.directory), "--jobs", "1"]) if all_finished(store) else None
    capsys.readouterr()
    names = ("status.csv", "report/findings.json", "report/figures/figure-1.csv", "report/index.html")
    return code, [(store.directory / name).read_bytes() for name in names]


def all_finished(store):
    return all(state.finished for state in store.states())


def test_runners_that_are_killed_leave_the_table_of_an_undisturbed_one(begin, start, capsys):  # rows 93 and 94, G12
    calm = begin("calm")
    child = start(calm)
    assert child.wait(600) == 0
    expected = tables(calm, capsys)
    assert expected[0] == 0
    rng, num_kills, most = random.Random(93), 0, 100 if LONG else 6
    round_number = 0
    while num_kills < most:
        round_number += 1
        store = begin(f"study-{round_number}")
        runners = [start(store) for _ in range(rng.randint(2, 4))]
        deadline = time.monotonic() + 120
        while not all_finished(store):
            assert time.monotonic() < deadline
            victim = rng.randrange(len(runners))
            if runners[victim].poll() is None and num_kills < most:
                runners[victim].stdout.readline()
                time.sleep(rng.random() * 0.12)
                runners[victim].send_signal(signal.SIGKILL)
                num_kills += runners[victim].wait() == -signal.SIGKILL
            if runners[victim].poll() is not None:
                runners[victim] = start(store)
            time.sleep(0.01)
        for runner in runners:
            assert runner.wait(600) == 0
        assert tables(store, capsys) == expected
        executed = Counter(line.split()[0] for line in Path(f"{store.directory}.log").read_text().splitlines())
        assert executed.keys() == {trial.fingerprint for trial in store.trials}
    print(f"{num_kills} kills in {round_number} studies")


def test_four_runners_share_a_study_and_run_nothing_twice(begin, start, capsys):  # row 94
    store = begin("shared")
    runners = [start(store, 4) for _ in range(4)]
    assert [runner.wait(600) for runner in runners] == [0] * 4
    executed = [line.split() for line in Path(f"{store.directory}.log").read_text().splitlines()]
    assert sorted(name for name, _ in executed) == sorted(trial.fingerprint for trial in store.trials)
    assert len({process for _, process in executed}) == 4
    assert all_finished(store)


def test_poisonous_cells_harm_no_other(begin, start, capsys):  # rows 78 and 95
    store = begin("poisoned", STUDY.replace("[claims.falls]", POISON))
    assert start(store).wait(600) == 0
    found = {(state.trial.arm, state.trial.settings.get("momentum")): [] for state in store.states()}
    for state in store.states():
        found[state.trial.arm, state.trial.settings.get("momentum")].append((state.status, state.reason))
    assert found == {
        ("warm", None): [("complete", None)] * 12,
        ("poison", 0.1): [("diverged", "the loss is not finite")] * 4,  # a result, not a failure
        ("poison", 0.2): [
            ("failed", "MemoryError: there was too little memory; use smaller passes (images_per_forward) or fewer --jobs")
        ]
        * 4,
        ("poison", 0.3): [("failed", "An image must decode. It does not.")] * 4,
    }
    code = run(["study", "status", str(store.directory)])
    stdout, stderr = capsys.readouterr()
    assert code == 1
    assert "12 complete, 4 diverged, 8 failed" in stdout
    assert stderr.count("failed     poison momentum 0.2 seed ") == 4
    assert "Traceback" not in stderr
    assert store.forget_failures() == 8


@pytest.mark.processes
def test_two_runners_at_once_and_their_real_workers_killed(program, tmp_path, until, power_cut):  # rows 93 and 94
    """The real command: two runners, one of them with its workers cut off, the same command again."""
    text = STUDY.replace("[0, 1, 2, 3]", "[0, 1]").replace('["0ep", "1ep", "2ep"]', '["0ep", "1ep"]')
    (tmp_path / "two.toml").write_text(text.replace("stack = 2", 'epochs = "12ep"\ntrain_images = 200\ngrid = "2x1x10"'))

    def command(name):
        return "study", "run", tmp_path / "two.toml", "--out", tmp_path / name, "--jobs", 1

    calm = program(*command("calm"))
    assert calm.code == 0, calm.stderr
    first, second = program.start(*command("shaken"), heard=False), program.start(*command("shaken"), heard=False)
    until(lambda: list(tmp_path.glob("shaken/trials/*/epochs.csv")) or second.poll() is not None, "a run is under way")
    power_cut(first)
    second.wait(600)
    power_cut(second)
    again = program(*command("shaken"))
    assert again.code == 0, again.stderr
    for name in ("status.csv", "report/findings.json", "report/figures/figure-1.csv", "report/figures/figure-1.svg"):
        assert (tmp_path / "shaken" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
