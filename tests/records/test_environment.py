import json
import platform
from importlib import metadata

import numpy as np

import widestep
from widestep.records import environment as module
from widestep.records.environment import environment


def test_what_is_recorded():
    found = environment()
    assert found["widestep"] == widestep.__version__
    assert found["numpy"] == np.__version__
    assert found["torch"] == metadata.version("torch")
    assert found["python"] == platform.python_version()
    assert found["num_cores"] >= 1
    assert found["processor"]
    assert found["host"]
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr(module, "_PACKAGES", ("numpy", "no-such-package-of-ours"))
    assert environment()["no-such-package-of-ours"] == "absent"


def test_no_environment_variable_is_recorded(monkeypatch):
    monkeypatch.setenv("OUR_SECRET", "do-not-write-this")
    assert "do-not-write-this" not in json.dumps(environment())


def test_the_processor_where_the_system_does_not_say(monkeypatch):
    def missing(*_args: object, **_named: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert module._processor() == (platform.processor() or platform.machine())
