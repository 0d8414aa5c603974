"""A saved state is judged as training would, models that draw in evaluation repeat, and what diverges at the end says so."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from widestep.errors import UsageError
from widestep.records.run import open_existing
from widestep.train.assess import assess
from widestep.workers.engine import GradientEngine


@pytest.mark.parametrize(
    "fields", [{}, {"batchnorm_recompute": "never"}, {"batchnorm_running": "pooled", "batchnorm_momentum": 0.9}]
)
def test_a_saved_state_is_evaluated_as_training_would(small, train_one, cuts, tmp_path: Path, fields) -> None:  # D5
    """The state after 5 steps, without an evaluation so far: as a run that ends there."""
    whole = train_one(tmp_path / "whole", small(epochs="5st", **fields))
    cuts.at(GradientEngine, "gradients", 6)
    with pytest.raises(cuts.Cut):
        train_one(tmp_path / "run", small(**fields), checkpoint_every="5st")
    run = open_existing(tmp_path / "run")
    found = assess(run, run.checkpoints / "step-0000005.safetensors")
    assert (found["val_correct"], found["val_loss"]) == (whole.val_correct, whole.val_loss)


NOISY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images):
        x = images.flatten(1)
        return self.fc(x + torch.randn_like(x))
"""


def test_a_model_that_draws_in_evaluation(small, train_one, tmp_path: Path) -> None:  # D5
    (tmp_path / "net.py").write_text(NOISY)
    result = train_one(tmp_path / "run", small(model=f"{tmp_path / 'net.py'}:Net"))
    run = open_existing(tmp_path / "run")
    state = torch.get_rng_state()
    found = assess(run, run.checkpoints / "final.safetensors")
    assert (found["val_correct"], found["val_loss"]) == (result.val_correct, result.val_loss)
    assert torch.get_rng_state().equal(state)


def test_workers_gradients_of_own_models_are_refused_before_anything_is_written(small, train_one, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NOISY)
    with pytest.raises(UsageError, match="Set workers_per_forward to 1"):
        train_one(tmp_path / "run", small(model=f"{tmp_path / 'net.py'}:Net", worker_norms=True, workers_per_forward=4))
    assert not (tmp_path / "run").exists()


def test_final_weights_are_finite(small, train_one, tmp_path: Path) -> None:  # W7
    result = train_one(tmp_path / "run", small(base_lr=1e30, epochs="1st"))
    weights = load_file(tmp_path / "run/checkpoints/final.safetensors")
    assert result.status == "diverged" or all(tensor.isfinite().all() for tensor in weights.values())
