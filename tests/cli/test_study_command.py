"""`widestep study` without training: plans, states, exit codes, and what it says while it waits."""

import csv
import json

import pytest

from widestep.cli import progress, study_status
from widestep.cli import study as study_command
from widestep.study.store import StudyStore
from widestep.study.study import parse


@pytest.fixture
def store(empty, tiny, say):
    """The tiny study, begun in the directory `small`."""
    return StudyStore.create(empty / "small", parse(tiny.read_text()))


def test_a_plan_is_written_nowhere(say, empty):
    found = say("study plan poster-digits --jobs 2")
    assert (found.code, found.stderr) == (0, "")
    assert list(empty.iterdir()) == []
    lines = found.lines
    assert lines[0] == parse_shipped().title
    assert len([line for line in lines if line.startswith(("baseline ", "warmup-", "scaling-", "digits-iter "))]) == 21
    row = next(line for line in lines if line.startswith("warmup-40 ") and "warmup 8ep" in line).split()
    # 960 images in steps of 320 for 36 epochs; 8 epochs of warmup; 0.045 x 320/8; the seeds
    assert row == ["warmup-40", "warmup", "8ep", "40x1x8", "320", "108", "24", "1.8", "12"]
    assert "trials     204 different ones (12 seeds), 204 to run in 17 stacks" in lines
    # 960 x (168 x 36 + 36 x 90) images; 12 x (36 x (30 + 5 x 12 + 6 + 4 + 7 x 3) + 3 x 90 x 48) steps
    assert "images     8,916,480 training images in 206,496 steps" in lines
    # stacks of 960 x 12 x 36 and three of 960 x 12 x 90 images at 25,000/s: 41.472 and 16.5888 s, 4 s to start
    # two jobs, the longest first: 2 long and 6 short ones against 1 and 8, 182.5 s
    assert lines[-2].startswith("time       3:06 min with 2 at a time; basis: 25,000 images/s of one core")
    assert lines[-1].startswith("disk       ")
    assert lines[-1].endswith(" free; basis: states kept x state + best + final weights + records")


def parse_shipped():
    from widestep.study.study import source_text

    return parse(source_text("poster-digits"))


def test_a_plan_for_machines(say, empty):
    found = json.loads(say("study plan poster-digits --seeds 6 --jobs 3 --images-per-second 1000 --json").stdout)
    keys = ["study", "trials", "to_run", "jobs", "stacks", "steps", "images", "seconds", "basis", "disk", "probe", "cells"]
    assert list(found) == [*keys[:-1], "power", *keys[-1:]]
    assert (found["study"], found["trials"], found["to_run"], found["jobs"]) == ("poster-digits", 102, 102, 3)
    assert (found["images"], found["steps"], found["stacks"]) == (8_916_480 / 2, 206_496 / 2, 17)
    # 14 stacks of 207.36 s and 3 of 518.4 s on 3 jobs: one long one each, and 5 short ones on two of them
    assert found["seconds"] == pytest.approx(518.4 + 5 * 207.36)
    assert found["basis"] == "the speed given"
    assert list(found["disk"]) == ["num_bytes", "at_most", "free", "basis", "fits"]
    assert found["disk"]["fits"] is True
    assert found["probe"] is None
    assert sum(cell["seconds"] for cell in found["cells"]) > 8_916_480 / 2 / 1000  # arms share trials
    assert len(found["cells"]) == 21
    first = {"arm": "baseline", "cell": "grid 4x1x8", "grid": "4x1x8", "global_batch": 32, "steps": 1080, "warmup_steps": 60}
    rest = {"peak_lr": 0.18, "trials": 6, "to_run": 6, "seconds": 6 * 34.56, "bytes": found["cells"][1]["bytes"]}
    assert found["cells"][0].keys() == (first | rest).keys()
    assert {name: found["cells"][0][name] for name in first} == first
    assert found["cells"][0]["seconds"] == pytest.approx(rest["seconds"])
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("speed", ["0", "-5", "nan", "inf"])
def test_a_speed_is_a_number_above_0(say, speed):
    found = say(f"study plan poster-digits --images-per-second {speed}")
    assert (found.code, found.lines) == (2, [])
    assert "A speed is a number of images a second above 0." in found.stderr


def test_a_probe_needs_the_images(say):
    found = say("study plan poster --probe")
    assert found.code == 2
    assert "A study needs the files of its data set" in found.stderr


def test_the_posters_plan(say):
    """90 epochs of 41 steps of 30,720 images and so on; no speed is invented beyond the one measured."""
    lines = say("study plan poster --images-per-second 80000 --jobs 1").lines
    assert "trials     104 different ones (8 seeds), 104 to run" in lines
    images = 8 * 90 * (417 * 3072 + 4 * 166 * 7680 + 83 * 15360 + 55 * 23040 + 6 * 41 * 30720)
    steps = 8 * 90 * (417 + 4 * 166 + 83 + 55 + 6 * 41)
    assert f"images     {images:,} training images in {steps:,} steps" in lines
    assert f"time       {images / 80_000 / 3600:,.1f} h with 1 at a time; basis: the speed given" in lines
    # 4 x 25,557,032 bytes six times (best, final, two states with momentum), statistics and records, 104 times
    (disk,) = [line for line in lines if line.startswith("disk ")]  # a warning follows where there is less
    assert disk.startswith("disk       59.7 GiB, at most 59.9 GiB, ")


def test_a_plan_of_what_is_left(say, store, tiny, fake):
    for trial in store.trials[:3]:
        fake.finish(store.run(trial))
    found = say("study plan", tiny, "--out", "small")
    assert "trials     4 different ones (2 seeds), 1 to run" in found.lines
    assert "images     3,000 training images in 150 steps" in found.lines
    assert "time       0:12 min" in found.lines[-2]  # 150 steps as the others' 10 in 0.5 s, after 4 s to start
    assert "basis: the trials finished so far" in found.lines[-2]


def test_a_setting_for_every_run(say, tiny):
    found = json.loads(say("study plan --json --base-lr 0.25 --momentum 0", "--study", tiny).stdout)
    assert {cell["peak_lr"] for cell in found["cells"]} == {0.25 * 20 / 8}


def test_states_and_their_exit_codes(say, store, fake):
    assert say("study status small").code == 75
    fake.finish(store.run(store.trials[0]), val_correct=801)
    fake.finish(store.run(store.trials[1]), "diverged", val_correct=84)
    fake.begin(store.run(store.trials[2]))
    found = say("study status small")
    assert found.code == 75
    expected = [["complete", "95.70", "%"], ["diverged", "10.04", "%"], ["stopped", "seed", "0"], ["missing", "seed", "1"]]
    assert [line.split()[:3] for line in found.lines[:4]] == expected
    assert found.lines[4] == "1 complete, 1 diverged, 1 missing, 1 stopped"
    assert found.lines[1].endswith(f"small/trials/{store.trials[1].fingerprint} the loss is not finite")

    store.fail(store.trials[2], "broke down")
    found = say("study status small")
    assert found.code == 1
    assert found.stderr == (f"failed     long seed 0: broke down ({'small/trials/' + store.trials[2].fingerprint})\n")
    store.forget_failures()
    for trial in store.trials[2:]:
        fake.finish(store.run(trial))
    found = say("study status small")
    assert (found.code, found.stderr) == (0, "")
    assert found.lines[-1] == "3 complete, 1 diverged"


def test_states_for_machines(say, store, fake):
    fake.finish(store.run(store.trials[2]))
    store.fail(store.trials[3], "broke down")
    found = json.loads(say("study status small --json").stdout)
    keys = ["fingerprint", "arm", "settings", "seed", "status", "val_accuracy", "directory", "reason"]
    assert [list(row) for row in found] == [[*keys, "log", "progress", "since"]] * 4
    assert [row["progress"] for row in found] == [0.0, 0.0, 1.0, None]
    assert found[3]["log"] == f"{found[3]['directory']}/log.txt"
    assert [row["status"] for row in found] == ["missing", "missing", "complete", "failed"]
    assert [row["fingerprint"] for row in found] == [trial.fingerprint for trial in store.trials]
    assert (found[2]["val_accuracy"], found[3]["reason"]) == (800 / 837, "broke down")


def test_a_study_that_is_done_starts_nothing(say, store, tiny, fake, monkeypatch):
    for trial in store.trials:
        fake.finish(store.run(trial))
    monkeypatch.setattr(study_command, "Crew", None)
    found = say("study run", tiny, "--out", "small", "--no-report")
    assert (found.code, found.stdout) == (0, "")
    assert found.stderr.splitlines() == ["study      tiny: Two warmups, two seeds", "trials     4, 0 to run"]
    rows = list(csv.reader((store.directory / "status.csv").read_text().splitlines()))
    assert rows[0] == ["fingerprint", "arm", "settings", "seed", "status", "val_accuracy", "reason"]
    assert rows[1] == [store.trials[0].fingerprint, "short", "", "0", "complete", repr(800 / 837), ""]
    assert len(rows) == 5
    assert say("study retry small --no-report").code == 0


def test_a_table_of_states(say, store, fake, empty):
    text = (
        'name = "t"\ntitle = "t"\nrecipe = "digits"\nseeds = [7]\nmargin = 0.5\n[arms.a]\naxes = {warmup = ["0ep", "1ep"]}'
    )
    store = StudyStore.create(empty / "other", parse(text))
    store.fail(store.trials[1], 'a "quoted", divided\nreason')
    assert say("study status other").code == 1
    first, second = (trial.fingerprint for trial in store.trials)
    assert study_command._status_csv(store) == (
        "fingerprint,arm,settings,seed,status,val_accuracy,reason\n"
        f"{first},a,warmup=0ep,7,missing,,\n"
        f'{second},a,warmup=1ep,7,failed,,"a ""quoted"", divided\nreason"\n'
    )


class Absent:
    """A crew whose workers end without having done anything, as if others were at work."""

    def __init__(self, store, num_processes, device, signal=None):
        self.num_processes = num_processes

    def watch(self, show):
        show()


def test_what_others_are_at_is_left(say, store, tiny, monkeypatch):
    monkeypatch.setattr(study_command, "Crew", Absent)
    found = say("study run", tiny, "--out", "small", "--jobs", 2)
    assert found.code == 75
    assert found.stderr.splitlines()[1:3] == [
        "trials     4, 4 to run",
        "time       0:04 min with 2 at a time; basis: 25,000 images/s of one core of an AMD EPYC; yours will differ",
    ]
    assert (store.directory / "status.csv").read_text().count(",missing,") == 4
    assert not (store.directory / "report").exists()


def test_no_more_workers_than_trials(say, store, tiny, monkeypatch):
    hired = []

    class Counted(Absent):
        def __init__(self, store, num_processes, device):
            hired.append((num_processes, device))

    monkeypatch.setattr(study_command, "Crew", Counted)
    say("study run", tiny, "--out", "small", "--jobs", 64)
    assert hired == [(4, "cpu")]


def test_failures_are_tried_again_by_the_same_command(say, store, tiny, fake, monkeypatch):
    monkeypatch.setattr(study_command, "Crew", Absent)
    for trial in store.trials[:3]:
        fake.finish(store.run(trial))
    store.fail(store.trials[3], "broke down")
    for words in (["study run", tiny, "--out", "small", "--no-report"], ["study retry small --no-report"]):
        found = say(*words)
        assert found.code == 75
        assert "trials     4, 1 to run" in found.stderr
        store.fail(store.trials[3], "broke down")


def test_the_question_may_not_change_under_way(say, store, tiny, fake, empty):
    fake.finish(store.run(store.trials[0]))
    (empty / "changed.toml").write_text(tiny.read_text().replace("margin = 0.5", "margin = 5.0"))
    found = say("study run changed.toml --out small")
    assert found.code == 2
    assert "margin changed although trials in small have finished" in found.stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown"), (0.4, "0:00 min"), (59.6, "1:00 min"), (3599, "59:59 min"), (3600, "1.0 h"), (9e6, "2,500.0 h")],
)
def test_durations(seconds, words):
    assert progress.duration(seconds) == words


def test_states_while_others_are_at_work(say, store, fake, empty):
    """One trial at 6 of 15 epochs; nothing on the disk changes by asking."""
    trial = store.trials[1]
    store.claim([trial])
    fake.begin(store.run(trial))
    store.run(trial).event("resumed", step=30)
    with (store.path(trial) / "epochs.csv").open("w") as file:
        file.write("epoch,step,lr,train_loss,val_loss,val_correct,val_images,val_accuracy\n")
        file.writelines(f"{epoch},{10 * epoch},0.1,1.0,1.0,5,10,0.5\n" for epoch in range(1, 7))
        file.write("7,70,0.")  # being written

    def changes():
        """But for the sign of life of who has claimed the trial, which comes every few seconds."""
        return {path: path.stat().st_mtime_ns for path in empty.rglob("*") if path.parent.name != "claims"}

    before = changes()
    found = say("study status small")
    row = json.loads(say("study status small --json").stdout)[1]
    assert changes() == before
    assert found.lines[1].split()[:5] == ["running", "ep", "6/15", "seed", "1"]
    assert f" since {row['since'][:10]} {row['since'][11:16]}" in found.lines[1]
    assert row["progress"] == 6 / 15
    event = json.loads((store.path(trial) / "history.jsonl").read_text())
    assert row["since"] == event["time"]


def test_only_some_failures_are_tried_again(say, store, fake, monkeypatch):
    monkeypatch.setattr(study_command, "Crew", Absent)
    first, _, third, _ = store.trials
    for trial in store.trials:
        store.fail(trial, "broke down")
    assert "trials     4, 2 to run (2 of them failed before)" in say("study retry small --only long --no-report").stderr
    statuses = [state.status for state in store.states()]
    assert statuses == ["failed", "failed", "missing", "missing"]
    store.fail(third, "broke down")
    said = say("study retry small --no-report", "--only", first.fingerprint[:6])
    assert "trials     4, 2 to run (1 of them failed before)" in said.stderr
    assert [state.status for state in store.states()] == ["missing", "failed", "failed", "missing"]
    refused = say("study retry small --only broad")
    assert refused.code == 2
    assert "--only takes arms of the study (short, long) or beginnings of fingerprints. 'broad' is neither" in refused.stderr


def test_large_ledgers_are_left_to_the_report(say, store, fake, monkeypatch):
    fake.finish(store.run(store.trials[0]))
    (store.path(store.trials[0]) / "ledger.jsonl").write_text("x" * 100)
    monkeypatch.setattr(study_status, "_MOST_AUDITED", 99)
    monkeypatch.setattr(study_status, "audit", None)
    assert say("study status small").stderr == "audit      is left to the report: the ledgers of this study are large\n"


def test_a_plan_says_what_the_seeds_can_show(say):
    said = " ".join(say("study plan poster-digits --seeds 8 --jobs 1").stdout.split())
    assert "power shown in 80 % of studies, when 5 % of studies may say anything wrong: a: 8 seeds see " in said
    assert "poster-digits at 320 images a step, 12 seeds); 0.5 points need " in said
    assert say("study plan poster-digits --sd-from nowhere").code == 2


def test_a_plan_without_claims_says_nothing_of_power(say, tiny):
    found = say("study plan", tiny)
    assert found.code == 0
    assert "power" not in found.stdout
