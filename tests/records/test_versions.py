"""Versions of the processes of a job: which differ, and where."""

import pytest

import widestep
from widestep.records.environment import source_digest
from widestep.records.versions import differing, report, versions


def one(host, **changed):
    return {"host": host, "versions": {"widestep": "1", "torch": "2.13", "python": "3.11.7", **changed}}


def test_equal_versions_differ_in_nothing():
    assert differing([one("a"), one("b"), one("a", python="3.11.8")]) == ""


def test_what_differs_is_named_with_its_hosts():
    reports = [one("a"), one("b", torch="2.10"), one("a"), one("c"), one("b", torch="2.10", widestep="0")]
    assert differing(reports) == (
        "widestep is 1 on a (process 0, 2), b (process 1), c (process 3) and 0 on b (process 4); "
        "torch is 2.13 on a (process 0, 2), c (process 3) and 2.10 on b (process 1, 4)"
    )
    assert differing([one("a"), one("b", python="3.12")], ["python"]) == (
        "python is 3.11.7 on a (process 0) and 3.12 on b (process 1)"
    )


def test_a_version_that_one_does_not_tell():
    older = {"host": "b", "versions": {"torch": "2.13"}}
    assert differing([one("a"), older]) == "widestep is 1 on a (process 0) and unknown on b (process 1)"


def test_the_versions_of_this_process():
    found = versions()
    assert found["widestep"] == widestep.__version__
    assert set(report()) == {"host", "versions"}
    assert report()["versions"] == found


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package's code, moved to a place where it can be changed."""
    for name, text in {"__init__.py": "a = 1\n", "sub/one.py": "b = 2\n", "data.txt": "no code"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(widestep, "__file__", str(tmp_path / "__init__.py"))
    yield tmp_path
    source_digest.cache_clear()


def test_the_digest_of_the_code_sees_every_change_of_code(package):
    def digest():
        source_digest.cache_clear()
        return source_digest()

    first = digest()
    assert len(first) == 12
    (package / "data.txt").write_text("other")
    assert digest() == first
    (package / "sub/one.py").write_text("b = 3\n")
    second = digest()
    (package / "sub/one.py").rename(package / "sub/two.py")
    assert len({first, second, digest()}) == 3
