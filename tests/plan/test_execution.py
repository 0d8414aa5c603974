import re
from pathlib import Path

import pytest

from widestep.cli.options import request
from widestep.errors import UsageError
from widestep.plan import recipes
from widestep.plan.execution import Execution
from widestep.plan.fields import build
from widestep.plan.recipe import Recipe

ALTERNATIVES = {
    "out": "runs/elsewhere",
    "processes": "3",
    "device": "cpu",
    "loader_threads": "0",
    "gib_in_memory": "0.5",
    "checkpoint_every": "200st",
    "keep_checkpoints": "3",
    "restarts": "0",
    "hang_timeout": "1m",
    "join_timeout": "1h",
    "time_limit": "1.5h",
    "check_replicas_every": "7",
    "log_every": "10",
    "tensorboard": "false",
    "log_to": "mlflow,wandb",
    "compare_batchnorm": "true",
    "digests": "true",
}


def test_every_field_has_an_alternative():
    assert set(ALTERNATIVES) == set(Execution.model_fields)


@pytest.mark.parametrize("name", list(Execution.model_fields))
def test_every_field_is_explained(name):
    said = Execution.model_fields[name].description
    assert said
    assert said.rstrip().endswith(".")
    assert said[0].isupper()


def test_no_field_is_both_recipe_and_execution():
    assert not set(Execution.model_fields) & set(Recipe.model_fields)


@pytest.mark.parametrize("name", list(Execution.model_fields))
def test_an_execution_is_no_part_of_the_fingerprint(name):
    plain, other = request("digits", {}), request("digits", {name: ALTERNATIVES[name]})
    assert getattr(other.execution, name) != getattr(plain.execution, name)
    assert other.recipe == plain.recipe == recipes.load("digits").recipe
    assert other.recipe.fingerprint == plain.recipe.fingerprint
    assert other.directory == (Path("runs/elsewhere") if name == "out" else plain.directory)


def test_the_directory_is_found_again_by_the_settings():
    plain, again, other = request("digits", {}), request("digits", {"seed": "0"}), request("digits", {"seed": "1"})
    assert plain.directory == again.directory != other.directory
    assert re.fullmatch(r"runs/digits-[0-9a-f]{8}", str(plain.directory))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("processes", "0"),
        ("processes", "two"),
        ("device", "gpu"),
        ("loader_threads", "-1"),
        ("checkpoint_every", "60"),
        ("checkpoint_every", "0s"),
        ("restarts", "-1"),
        ("hang_timeout", "0s"),
        ("join_timeout", "soon"),
        ("time_limit", "-1h"),
        ("check_replicas_every", "0"),
        ("log_every", "0"),
        ("tensorboard", "perhaps"),
        ("log_to", "neptune"),
    ],
)
def test_what_does_not_fit_is_refused(name, text):
    with pytest.raises(UsageError, match=rf"^{name} \(in the execution\): .* Got '{text}'\.$"):
        build(Execution, {name: text}, what="execution", typed=False)
