"""The README says what is: its commands run, here or in a named test, and what it names exists."""

import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from widestep.cli.main import app
from widestep.plan.recipe import Recipe
from widestep.report.drawing import draw
from widestep.study.store import StudyStore
from widestep.study.study import changed, parse, source_text

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = [
    ROOT / "docs" / name
    for name in (
        "clusters.md",
        "data.md",
        "doctor.md",
        "faults.md",
        "progress.md",
        "report.md",
        "sequential.md",
        "statistics.md",
        "studies.md",
    )
]
DOCUMENTS = [README, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *DOCS]

# What takes too long here, and the test that executes it, or the same on a smaller scale.
ELSEWHERE = {
    "make study": "test_make_runs_the_study",
    "make test": "test_make_runs_the_tests",
    "widestep verify": "test_processes_threads_and_a_kill_change_no_byte",
    "widestep verify --recipe digits --model net.py:Net --grid 1x4x8 --workers-per-forward 1": (
        "test_a_model_with_a_will_of_its_own_is_caught_at_its_step_and_tensor"
    ),
    "torchrun --standalone --nproc-per-node 2 -m widestep train --recipe digits --out runs/launched": (
        "test_three_workers_under_torchrun"
    ),
    "widestep train --recipe poster --data folder:PATH --grid 1x2x8 --epochs 4st --out runs/photos": (
        "test_decoder_threads_and_processes_do_not_matter"
    ),
    "widestep study run poster-digits --until decided --out studies/frugal": "test_the_report_says_how_it_was_judged",
    "widestep study run my-study.toml --on slurm --cluster site.toml --time 4h": (
        "test_of_twelve_trials_two_fail_and_one_is_killed_and_three_run_again"
    ),
    (
        'widestep certify studies/poster-digits --baseline "warmup-10[warmup=2ep]" '
        '--candidate "warmup-10[warmup=0ep]" --margin 0.5'
    ): "test_a_preserved_accuracy",
}
HERE = [
    "widestep lr --recipe poster --grid 40x6x128 --warmup 10ep --steps 0:5",
    "widestep doctor --out runs",
    "widestep recipes list",
    "widestep recipes explain goyal2017",
    "widestep diff poster poster-as-run",
    "widestep train --recipe mlperf-lars:32768 --explain-optimizer",
    "widestep recipes fields",
    "widestep study plan poster-digits --seeds 8",
]
OF_A_RUN = [
    "widestep train --recipe digits --grid 40x1x8 --warmup 4ep --processes 2 --out runs/wide",
    "widestep eval runs/wide",
]
OF_DATA = [
    "widestep data check folder:PATH",
    "widestep data pack folder:PATH OUT",
    "widestep data bench packed:OUT --feed 3000",
    "widestep bench --recipe poster --data packed:OUT --grid 1x1x32",
]
OF_A_STUDY = [
    "widestep study run poster-digits --seeds 6 --out studies/quick",
    "widestep study status studies/quick",
    "widestep report studies/quick --poster",
]


def commands(path):
    """The lines of the sh blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def code(path):
    """Everything in single backticks, and the lines of the sh blocks."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)] + commands(path)


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_command_is_executed_by_a_test():
    assert sorted(commands(README)) == sorted([*ELSEWHERE, *HERE, *OF_A_RUN, *OF_DATA, *OF_A_STUDY])


@pytest.mark.parametrize("name", sorted({*ELSEWHERE.values()}))
def test_the_named_test_exists(name):
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if f"\ndef {name}(" in path.read_text(encoding="utf-8")]
    assert len(found) == 1


@pytest.mark.parametrize("line", HERE)
def test_a_command_without_training(say, empty, line):
    found = say(line.removeprefix("widestep "))
    assert (found.code, found.stderr) == (0, "")
    assert len(found.lines) > 3
    assert list(empty.iterdir()) == []


@pytest.mark.processes
def test_the_commands_of_a_run(program, command, empty, monkeypatch):
    train, evaluate = (shlex.split(line)[1:] for line in OF_A_RUN)
    found = program(*train)
    assert found.code == 0, found.stderr
    result = json.loads((empty / "runs/wide/result.json").read_text())
    assert result["num_workers"] == 40
    assert result["val_accuracy"] > 0.9
    assert "devices    2 process(es)" in found.stderr
    assert f"({result['val_correct']:,})" in command(*evaluate).stdout


def drawing_once():
    """Draw a figure once, although two commands want it."""
    drawn = {}

    def remembered(data):
        if repr(data) not in drawn:
            drawn[repr(data)] = draw(data)
        return drawn[repr(data)]

    return remembered


def test_the_commands_of_a_study(say, empty, fake, monkeypatch):
    """All trials are there already, so that nothing is trained; the rest is as it says."""
    monkeypatch.setattr("widestep.report.build.draw", drawing_once())
    run, status, report = (line.removeprefix("widestep ") for line in OF_A_STUDY)
    study = changed(parse(source_text("poster-digits")), seeds=6)
    store = StudyStore.create(empty / "studies/quick", study)
    for index, trial in enumerate(store.trials):
        fake.finish(store.run(trial), val_correct=780 + 7 * index % 53)
    number = len(store.trials)
    found = say(run)
    assert (found.code, found.stderr.splitlines()[1]) == (0, f"trials     {number}, 0 to run")
    assert found.lines[0] == f"{number} of {number} complete"
    assert found.lines[-1] == "report: studies/quick/report/index.html"
    assert (empty / "studies/quick/status.csv").read_text().count(",complete,") == number
    assert say(status).lines[-1] == f"{number} complete"
    findings = (empty / "studies/quick/report/findings.json").read_bytes()
    assert say(report).stdout == found.stdout
    assert (empty / "studies/quick/report/findings.json").read_bytes() == findings
    assert [record["claim"] for record in json.loads(findings)] == ["a", "b", "c", "d", "e", "b-iter", "warmup-slope"]


def photographs(root):
    """Two classes of 40 small photographs to train on and 3 to validate."""
    for part, number in (("train", 40), ("val", 3)):
        for label, step in (("cat", 3), ("dog", 5)):
            (root / part / label).mkdir(parents=True)
            for image in range(number):
                pixels = np.add.outer(np.arange(40) * step, np.arange(36 + image) * 2)[:, :, None] % 256
                picture = Image.fromarray(np.repeat(pixels, 3, axis=2).astype(np.uint8))
                picture.save(root / part / label / f"{image}.JPEG")


def test_the_commands_of_data(say, empty, monkeypatch):
    """As they stand but for the size of the network, the images and the time."""
    photographs(empty / "photos")
    check, pack, load, train = (
        line.removeprefix("widestep ").replace("PATH", str(empty / "photos")).replace("OUT", str(empty / "packed"))
        for line in OF_DATA
    )
    found = say(check)
    assert (found.code, found.lines[0]) == (0, f"data       folder:{empty}/photos: 80 training and 6 validation images")
    assert found.lines[-1] == "damaged    0"
    assert "86 images" in say(pack).stdout
    found = say(f"{load} --seconds 0.2 --threads 1")
    assert found.code == 0
    assert re.fullmatch(r"cores      [\d,]+ to feed 3,000 images/s", found.lines[-1])
    found = say(f"{train} --seconds 0.2 --model cifar-resnet20 --image-size 32 --epochs 4st --device cpu")
    assert (found.code, found.lines[0]) == (0, "recipe     poster: cifar-resnet20, 1x1x32, 32 images a step")
    shares = [int(share) for share in re.findall(r"(\d+) %", found.lines[3])]
    assert len(shares) == 3
    assert abs(sum(shares) - 100) <= 1
    assert sorted(path.name for path in empty.iterdir()) == ["packed", "photos"]


def test_the_options_for_photographs(say, empty):
    """The command itself trains ResNet-50; its plan shows that every option is one."""
    (line,) = [line for line in commands(README) if line.startswith("widestep train") and "folder:PATH" in line]
    photographs(empty / "photos")
    words = line.replace("folder:PATH", f"folder:{empty / 'photos'}").removeprefix("widestep ")
    found = say(f"{words} --dry-run")
    assert (found.code, found.stderr) == (0, "")
    assert any(line.startswith("epochs     0.8 = 4 steps, 5 an epoch") for line in found.lines)
    assert found.lines[-1] == "files      runs/photos"


def target(name):
    """The prerequisites and the commands of a target of the Makefile."""
    found = re.search(rf"^{name}: (.*)\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1], found[2].replace("$(BIN)/", "").replace("\t", "").splitlines()


def test_make_runs_the_study():
    needed, run = target("study")
    assert needed == "$(VENV)/.runtime"
    assert run == ["widestep study run poster-digits"]


def test_make_runs_the_tests():
    needed, run = target("test")
    assert needed == "$(VENV)/.dev"
    assert len(run) == 1
    assert run[0].startswith("python -m pytest -q")


def test_make_runs_the_long_form_of_the_faults():
    needed, run = target("chaos")
    assert needed == "$(VENV)/.dev"
    assert len(run) == 1
    assert run[0].startswith("WIDESTEP_CHAOS=long ")
    assert run[0].endswith(" tests/faults")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path):
    named = [span.split()[1:] for span in code(path) if re.match(r"widestep [a-z]", span)]
    assert named
    for first, *rest in named:
        assert first in list(app), first
        if first in ("study", "recipes", "data") and rest and not rest[0].startswith("-"):
            assert rest[0] in list(app[first]), rest


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path):
    for span in code(path):
        if re.fullmatch(r"[\w./-]+\.(py|md|toml)", span) and "/" in span:
            assert any((root / span).exists() for root in (ROOT, ROOT / "src/widestep")), span


def test_the_concepts_are_fields():
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"\(`([a-z_]+)`\)", text):
        assert name in Recipe.model_fields, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_exit_codes_are_those_of_the_program():
    from widestep import errors

    text = " ".join((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split())
    listed = {
        int(number) for number in re.findall(r"(?:^|[;.] )(\d+)(?: a)? [a-z]", text.partition("## Files and exit codes")[2])
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.WidestepError)]
    assert {kind.exit_code for kind in kinds} | {0} == listed & {0, *range(1, 100)}
    assert os.EX_TEMPFAIL == 75


def test_the_study_in_the_docs_can_be_planned(say, empty):
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (empty / "docs.toml").write_text(text)
    lines = say("study plan docs.toml").lines
    assert lines[0] == "Does warmup help at 40 workers?"
    assert "trials     24 different ones (6 seeds), 24 to run in 4 stacks" in lines
    for key in ("to_run", "stacks", "disk", "probe", "cells"):
        assert re.search(rf"\b{key}\b", page)
