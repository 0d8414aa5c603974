"""`widestep lr`: the rate at every step, for people, machines and eyes."""

import itertools
import json
import xml.etree.ElementTree as ET

import pytest

from widestep.report.drawing import draw


def horovod(epoch, batch, num_batches, num_workers, num_warmup_epochs):
    """The public Horovod example: base * (((e + (i + 1) / L) * (W - 1)) / Wu + 1), later base * W * 0.1**k."""
    if epoch < num_warmup_epochs:
        return 0.0125 * ((epoch + (batch + 1) / num_batches) * (num_workers - 1) / num_warmup_epochs + 1)
    return 0.0125 * num_workers * 0.1 ** sum(epoch >= boundary for boundary in (30, 60, 80))


def test_the_published_rates_through_the_command(say):  # L4
    found = json.loads(say("lr --recipe poster --grid 40x6x128 --warmup 10ep --tail pad --json").stdout)
    assert list(found) == ["steps_per_epoch", "steps", "lr", "derivation"]
    assert (found["steps_per_epoch"], found["steps"]) == (42, 3780)
    assert found["derivation"] == "0.0125 @ 1 worker x 240 workers -> 3"
    published = [horovod(e, i, 42, 240, 10) for e, i in itertools.product(range(90), range(42))]
    assert found["lr"] == pytest.approx(published, rel=1e-13, abs=0)
    assert (round(found["lr"][0], 6), found["lr"][419]) == (0.019613, 3.0)


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [("0:5", 0, 5), (":3", 0, 3), ("3687:", 3687, 3690), ("418:420", 418, 420), ("3600:9999", 3600, 3690), (":", 0, 3690)],
)
def test_some_steps(say, steps, first, last):
    words = "lr --recipe poster --warmup 10ep"
    everything = json.loads(say(f"{words} --json").stdout)
    some = json.loads(say(f"{words} --json --steps {steps}").stdout)
    assert some["lr"] == everything["lr"][first:last]
    assert (some["steps"], some["steps_per_epoch"]) == (3690, 41)
    lines = say(f"{words} --steps {steps}").lines
    table = [line.split() for line in lines[lines.index("    step     epoch  rate") + 1 :]]
    assert [int(step) for step, _, _ in table] == list(range(first, last))
    assert [float(rate) for _, _, rate in table] == some["lr"]
    assert table[0][1] == f"{first / 41:.3f}"


def test_the_plan_is_said_first(say):
    lines = say("lr --recipe poster --grid 40x6x128 --warmup 10ep --tail pad --steps 0:1").lines
    assert "240 x 128 images = 30,720 a step" in lines[0]
    assert "90 = 3,780 steps, 42 an epoch; tail pad: 193 images repeated an epoch" in lines[1]
    assert lines[2].endswith("0.0125 @ 1 worker x 240 workers -> 3")
    assert "420 steps = 10 epochs, linear; then step decay" in lines[3]


def test_a_recipe_from_a_file(say, empty):
    (empty / "mine.toml").write_text('grid = "1x1x10"\nepochs = "2st"\nwarmup = "0"\nscaling = "none"\nbase_lr = 0.25\n')
    found = json.loads(say("lr --recipe mine.toml --json").stdout)
    assert found["lr"] == [0.25, 0.25]
    assert found["derivation"] == "0.25 unscaled -> 0.25"


@pytest.mark.parametrize("steps", ["5", "0:0", "7:3", "-1:4", "a:b", "1080:", "²:5", "0:1:2", "0.5:2", "", "9" * 5000 + ":"])
def test_steps_that_are_none(say, steps):
    found = say("lr --steps", steps) if steps else say("lr", "--steps=")
    assert found.code == 2
    assert found.stderr.startswith("widestep: --steps reads FIRST:LAST within 0:1080, for example 0:100. Got ")
    assert found.stdout == ""


def test_a_picture(say, empty):
    found = say("lr --recipe poster --warmup 10ep --plot rate.svg")
    assert (found.code, found.stdout, found.stderr) == (0, "rate.svg\n", "")
    assert ET.parse(empty / "rate.svg").getroot().tag.endswith("svg")
    say("lr --recipe poster --plot rate.png --steps 0:100")
    assert (empty / "rate.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in empty.iterdir()) == ["rate.png", "rate.svg"]


def test_a_picture_shows_the_rates(say, monkeypatch):
    drawn = []
    monkeypatch.setattr("widestep.report.drawing.draw", lambda data: drawn.append(data) or draw(data))
    say("lr --recipe poster --warmup 10ep --plot rate.svg --steps 0:500")
    ((series,),) = [data.series for data in drawn]
    expected = json.loads(say("lr --recipe poster --warmup 10ep --json --steps 0:500").stdout)
    assert series.mean == expected["lr"]
    assert series.x == [step / 41 for step in range(500)]
    assert drawn[0].y_label == "learning rate"


@pytest.mark.parametrize(("path", "code"), [("rate.jpg", 2), ("rate", 2), ("no/such/rate.svg", 5)])
def test_a_picture_that_cannot_be(say, empty, path, code):
    found = say(f"lr --plot {path}")
    assert found.code == code
    assert found.stderr.startswith("widestep: ")
    assert path in found.stderr
    assert list(empty.iterdir()) == []
