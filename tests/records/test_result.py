import json

import pytest
from contract_names import RESULT_NAMES

from widestep.errors import StoreError
from widestep.files import write_json
from widestep.records.result import RunResult


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": "diverged", "val_loss": None, "reason": "loss nan at step 7"},
        {"status": "diverged", "val_loss": 2.0e36, "reason": "loss inf at step 7"},  # of weights about to overflow
    ],
)
def test_a_result_comes_back_bit_for_bit(fields, result, tmp_path):
    path = tmp_path / "result.json"
    write_json(path, result(**fields).as_dict())
    assert RunResult.read(path) == result(**fields)


def test_the_names_in_the_file_are_those_of_the_contract(result):
    assert tuple(result().as_dict()) == (*RESULT_NAMES, "reason")


def test_final_median_and_best_accuracy_stand_side_by_side(result):
    """N3: the accuracy of a run is that of its last epoch; the others have names of their own."""
    written = result().as_dict()
    assert written["val_accuracy"] == written["val_correct"] / written["val_images"]
    assert len({written[name] for name in ("val_accuracy", "median_last5_val_accuracy", "best_val_accuracy")}) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"status": "complete"}', "{}", '{"state": 1}', "\udcff"])
def test_damage_is_noticed(text, tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StoreError, match=r"result\.json must be a run's result\. It is damaged: "):
        RunResult.read(path)


def test_a_key_too_many_is_noticed(result, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**result().as_dict(), "top5": 1.0}))
    with pytest.raises(StoreError, match="top5"):
        RunResult.read(path)
