import math

import pytest

from widestep.records.gradients import GradientStatistics


@pytest.mark.parametrize(
    ("loss", "norm", "finite"),
    [
        (2.3, 0.5, True),
        (0.0, 0.0, True),
        (1.7e308, 1.7e308, True),
        (math.nan, 0.5, False),
        (math.inf, 0.5, False),
        (2.3, math.nan, False),
        (2.3, math.inf, False),
        (-math.inf, -math.inf, False),
    ],
)
def test_a_step_may_be_taken_when_loss_and_gradient_are_numbers(loss, norm, finite):
    assert GradientStatistics(loss, norm, num_images=32).finite is finite  # W7
