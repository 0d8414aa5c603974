"""Row 98: names that are code somewhere else are text in the page, the figures, the tables and the terminal."""

import csv
import html.parser
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from widestep.cli.main import run
from widestep.plan.recipe import Recipe
from widestep.study.study import parse

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><svg onload=alert(1)>",
    "]]></text><script/>",
    "=HYPERLINK(CMD)",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    " =1+1",
    "\x1b[31mred\x1b]0;title\x07",
    "$(touch PWNED)",
    "a;touch PWNED",
    "{{ 7*7 }}{% include 'x' %}",
    "https://example.org/x.png",
    "javascript:alert(1)",
    "a\nb\r\nwidestep: all is well",
    "\u202egnp.exe",
    "`touch PWNED` & | > x",
    "../../../../tmp/PWNED",
    "%s%n{0}$x^{2}$ \\frac{1}{0}",
]


@pytest.fixture
def hostile(writers, tmp_path, monkeypatch):
    """A study in which all that may be any text is hostile: title, notes, arms, labels, claims, figures, reasons, facts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    quoted = json.dumps
    lines = ['name = "hostile"', f"title = {quoted(HOSTILE[0] + HOSTILE[9])}", 'recipe = "digits"', "seeds = [0, 1]"]
    lines += ["margin = 0.5", f"notes = {quoted(HOSTILE)}", "[set]", 'epochs = "3ep"']
    for number, name in enumerate(HOSTILE):
        lines += [f"[arms.{quoted(name)}]", f"label = {quoted(name)}", f"set = {{ threads = {number + 1} }}"]
        lines += ['axes = { warmup = ["0ep", "1ep"] }', f"[claims.{quoted(name)}]", f"text = {quoted(name)}"]
        lines += ['test = "falls"', f"arms = [{quoted(name)}]", 'axis = "warmup"']
    for number, name in enumerate(HOSTILE[:4]):
        lines += ["[[figures]]", f"number = {number}", f"kind = {quoted(('curves', 'final')[number % 2])}"]
        lines += [f"arm = {quoted(name)}", f"title = {quoted(name)}"]
    study = parse("\n".join(lines))
    directory = writers.write_study(tmp_path / "study", study, lambda cell, seed, rng: writers.Planned(700 + seed))
    for number, trial in enumerate(sorted((directory / "trials").iterdir())):
        text = HOSTILE[number % len(HOSTILE)]
        (trial / "environment.json").write_text(json.dumps({text: text, "host": "secret-host"}))
        if number % 5 == 0:
            result = json.loads((trial / "result.json").read_text())
            (trial / "result.json").write_text(json.dumps({**result, "status": "diverged", "reason": text}))
            (trial / "STATUS").write_text("diverged\n")
        if number % 5 == 1:
            (trial / "STATUS").write_text("running\n")
            (trial / "failure.json").write_text(json.dumps({"reason": text}))
    return directory


class Elements(html.parser.HTMLParser):
    """All elements and attributes of a page, as a browser would see them."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.policy = set(), [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = dict(attributes)["content"]


def check_page(path):
    text = path.read_text(encoding="utf-8")
    seen = Elements()
    seen.feed(text)
    assert seen.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in seen.policy.partition("style-src")[0]
    assert text.count("<script") == text.count("</script>") == 3
    assert json.loads(re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', text)[0])
    assert not seen.tags & {"img", "iframe", "object", "embed", "link", "base", "form", "foreignobject", "audio"}
    for tag, name, value in seen.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcdoc", "action", "formaction"), (tag, name)
        if name in ("href", "xlink:href"):
            assert value.startswith("#"), (tag, value)
    assert not re.search(r"url\(\s*[\"']?(?!#)", text)
    assert "@import" not in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "49" not in re.findall(r"\{\{.{0,9}\}\}", text)
    assert html.escape(HOSTILE[0]) in text


def check_drawing(path):
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in ("script", "image", "foreignObject", "a", "animate", "set")
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name.rpartition("}")[2] == "href":
                assert value.startswith("#")


def check_table(path):
    for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))):
        for cell in row:
            assert all(letter.isprintable() or letter in "\n\t" for letter in cell)
            if cell.lstrip().startswith(("=", "+", "-", "@")):
                float(cell)  # a number, which is harmless


def test_a_report_of_hostile_names_is_text(hostile, capsys, tmp_path):  # row 98
    assert run(["report", str(hostile)]) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    assert all(line.isprintable() for line in stdout.splitlines())
    check_page(hostile / "report" / "index.html")
    drawings = list((hostile / "report" / "figures").glob("*.svg"))
    assert len(drawings) == 4 + len(HOSTILE)
    for path in drawings:
        check_drawing(path)
    tables = [*hostile.rglob("report/**/*.csv")]
    assert len(tables) == 5 + len(HOSTILE)
    for path in tables:
        check_table(path)
    for name in ("findings.json", "audit.json"):
        assert json.loads((hostile / "report" / name).read_text())
    assert "secret-host" not in (hostile / "report" / "index.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study"]


def test_a_table_of_hostile_names_is_text(hostile, program, tmp_path):  # row 98
    """In a process: what it writes goes to a terminal."""
    for words in (("study", "status", hostile), ("study", "plan", hostile / "study.toml"), ("report", hostile)):
        found = program(*words)
        assert found.code in (0, 1, 75), found.stderr
        assert "Traceback" not in found.stderr
        for line in (found.stdout + found.stderr).replace("\t", " ").splitlines():
            assert line.isprintable(), line
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("name", [name for name in HOSTILE if "/" not in name])
def test_runs_of_hostile_names_are_text(writers, tmp_path, capsys, monkeypatch, name):  # row 98
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(epochs="2ep", warmup="1ep", model=f"{name}.py:Net")
    writers.write_run(tmp_path / name, recipe, writers.Planned(700), np.random.default_rng(0))
    writers.write_run(tmp_path / "other", Recipe(epochs="2ep"), writers.Planned(710), np.random.default_rng(0))
    assert run(["report", f"./{name}", "other", "--out", "report"]) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    assert all(line.isprintable() for line in stdout.splitlines())
    text = (tmp_path / "report" / "index.html").read_text()
    seen = Elements()
    seen.feed(text)
    assert not seen.tags & {"img", "iframe"}
    assert text.count("<script") == 3
    assert not any(attribute.startswith("on") for _, attribute, _ in seen.attributes)
    for path in (tmp_path / "report").rglob("*.csv"):
        check_table(path)
    for path in (tmp_path / "report").rglob("*.svg"):
        check_drawing(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "other", "report"])


def test_a_name_of_a_run_directory_holds_no_way_out(tmp_path, monkeypatch, capsys):  # row 98, section Security
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()
    for name in ("../escape.toml", "$(touch PWNED).toml", "a;b.toml"):
        path = tmp_path / "inner" / name
        path.write_text("seed = 1\n")
        assert run(["train", "--recipe", str(path), "--dry-run"]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("files ")]
        assert line.split(maxsplit=1)[1].count("/") == 1
        assert line.split(maxsplit=1)[1].startswith("runs/")
