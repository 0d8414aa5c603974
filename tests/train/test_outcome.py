"""What is said of a run that has ended."""

import pytest
import torch

from widestep.train.evaluate import Evaluation
from widestep.train.outcome import no_better_than_guessing


@pytest.mark.parametrize(
    ("correct", "counts", "nothing"),
    [
        (100, (100,) * 10, True),  # 1,000 images of ten classes: 100 + 2.33 * sqrt(90) = 122.1
        (122, (100,) * 10, True),
        (123, (100,) * 10, False),
        (0, (100,) * 10, True),
        (619, (600, 400), True),  # of two classes, the larger with 600: 600 + 2.33 * sqrt(240) = 636.1
        (636, (600, 400), True),
        (637, (600, 400), False),
        (5, (5,), True),  # one class teaches nothing
    ],
)
def test_guessing(correct: int, counts: tuple[int, ...], nothing: bool) -> None:  # row 79
    labels = torch.cat([torch.full((count,), number) for number, count in enumerate(counts)])
    found = no_better_than_guessing(Evaluation(correct, len(labels), 2.3, correct / len(labels)), labels)
    assert (found is not None) == nothing


def test_a_stuck_run_says_so(command, options, tmp_path) -> None:  # row 79
    """A rate that destroys the network in its first step, without anything infinite."""
    fields = {"grid": "1x2x10", "train_images": 100, "epochs": "3", "base_lr": "50", "warmup": "0", "out": tmp_path / "run"}
    found = command("train", *options({**fields, "tensorboard": "false"}))
    assert (found.code, (tmp_path / "run/STATUS").read_text()) == (0, "complete\n")
    assert "note       the network has learnt nothing: " in found.stderr
    assert "the network has learnt nothing: " in (tmp_path / "run/log.txt").read_text()
