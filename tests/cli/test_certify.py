"""`widestep certify`: what it says, what it writes, and a code for each way that it can end."""

import json

import pytest
from certified_studies import write_careful_study

CERTIFY = ("--baseline", "warm[warmup=1ep]", "--candidate")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    def correct(cell, seed):
        return {"0ep": 900, "1ep": 960, "2ep": 960 + seed % 3}[str(cell.recipe.warmup)] if cell.arm == "warm" else 950

    return write_careful_study(tmp_path_factory.mktemp("careful") / "study", correct)


def test_a_preserved_accuracy(say, study, empty):
    found = say("certify", study, *CERTIFY, "warm[warmup=2ep]", "--margin", 0.4, "--out", empty / "new" / "c.json")
    assert (found.code, found.stderr) == (0, "")
    record = json.loads((empty / "new/c.json").read_text())
    assert record["verdict"] == "equivalent"
    assert (empty / "new/c.html").read_text().startswith("<!doctype html>")
    assert found.lines[0] == f"question   {record['question']}"
    # gains of 0, 1, 1, 0, 0, 2, 0, 2 images of 1,000
    assert found.lines[2].startswith("difference +0.08 points, 90 % interval [+0.02, +0.13], n = 8 pairs, p ")
    again = say("certify", study, "--verify", empty / "new/c.json")
    assert again.code == 0
    assert again.lines == [f"verified   {empty}/new/c.json agrees with {study} in every number and digest"]


def test_one_that_is_not(say, study):
    found = say("certify", study, *CERTIFY, "warm[warmup=0ep]")
    assert (found.code, found.stderr) == (1, "")
    assert "verdict    Accuracy is not preserved" in found.stdout
    name = "warm-warmup=0ep-against-warm-warmup=1ep-within-0.5"
    assert {path.name for path in (study / "certificates").iterdir()} == {f"{name}.json", f"{name}.html"}


def test_one_that_does_not_agree_any_more(say, study, empty):
    say("certify", study, *CERTIFY, "warm[warmup=2ep]", "--out", "c.json")
    record = json.loads((empty / "c.json").read_text())
    (empty / "c.json").write_text(json.dumps(record | {"margin": 0.3}))
    found = say("certify", study, "--verify", "c.json")
    assert found.code == 6
    assert found.lines[0] == "differs    the certificate was changed after it was issued: its seal differs"
    assert any(line.startswith("differs    question: ") for line in found.lines)
    assert f"c.json does not, in {len(found.lines)} things" in found.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("", 2, "Give --baseline and --candidate"),
        ("--baseline warm[warmup=1ep]", 2, "Give --baseline and --candidate"),
        ("--verify c.json --margin 0.2", 2, "leave out the other options"),
        ("--verify c.json", 6, "no such file"),
        ("--baseline warm --candidate alone", 2, "the settings of this arm are"),
        ("--baseline alone --candidate warm[warmup=1ep] --margin 0.9", 2, "declared before the study ran"),
        ("--baseline alone --candidate warm[warmup=1ep] --out c.html", 2, "give --out NAME.json"),
        ("--baseline alone --candidate warm[warmup=1ep] --out /proc/c/c.json", 5, "/proc/c"),
    ],
)
def test_refusals_have_a_sentence_and_write_nothing(say, study, empty, words, code, said):
    found = say("certify", study, *words.split())
    assert (found.code, found.stdout) == (code, "")
    assert said in found.stderr
    assert found.stderr.count("\n") == 1
    assert list(empty.iterdir()) == []


def test_no_study(say, empty):
    assert say("certify", empty, *CERTIFY, "alone").code == 2
