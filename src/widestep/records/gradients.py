"""What a step's gradients had to say, as plain numbers: read by the trainer, the records and later by advice."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class GradientStatistics:
    """One run's step.

    Parameters
    ----------
    loss
        Mean over all images of the global batch (statement W1).
    gradient_norm
        Euclidean norm of the averaged gradient, before weight decay.
    num_images
        n: the images that counted.
    mean_square_of_workers
        Mean over workers of the squared Euclidean norm of the worker's own gradient, that of the mean loss of its images.
        None where it was not asked for.
    """

    loss: float
    gradient_norm: float
    num_images: int
    mean_square_of_workers: float | None = None

    @property
    def finite(self) -> bool:
        """Whether the step may be taken (statement W7)."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)
