"""AdaScale: how much progress one step of W workers makes, in steps of one worker (statement L6).

Johnson, Agrawal, Gu and Guestrin, "AdaScale SGD: a user-friendly algorithm for distributed training", 2020
(arXiv 2007.05105).
"""

from dataclasses import dataclass


@dataclass
class GainEstimate:
    """Running estimates of the variance and the squared mean of the workers' gradients, and the gain they give.

    Parameters
    ----------
    variance, square
        Moving averages of the variance of one worker's gradient (sigma^2, all entries together) and of the squared norm of
        the true gradient (mu^2). Both start from 0 with the same weight, which cancels in the gain.

    Notes
    -----
    With W workers, m the mean of their squared gradient norms and g the squared norm of their averaged gradient,
    sigma^2 = W/(W - 1) (m - g) and mu^2 = g - sigma^2/W, both unbiased and not below 0. The gain is
    r = (sigma^2 + mu^2)/(sigma^2/W + mu^2): 1 without noise, W in noise alone.

    Examples
    --------
    Four workers, each with a gradient of squared norm 4; their average has squared norm 1, so all of it is noise:

    >>> GainEstimate().updated(4.0, 1.0, num_workers=4, smoothing=0.0).gain(num_workers=4)
    4.0
    """

    variance: float = 0.0
    square: float = 0.0

    def updated(self, mean_square: float, square_of_mean: float, *, num_workers: int, smoothing: float) -> "GainEstimate":
        """Return the estimates after one more step.

        Parameters
        ----------
        mean_square
            Mean over workers of the squared norm of the worker's gradient.
        square_of_mean
            Squared norm of the averaged gradient.
        smoothing
            Share that is kept of the estimates so far, in [0, 1).
        """
        variance = 0.0
        if num_workers > 1:
            variance = max(0.0, num_workers / (num_workers - 1) * (mean_square - square_of_mean))
        square = max(0.0, square_of_mean - variance / num_workers)
        return GainEstimate(
            smoothing * self.variance + (1 - smoothing) * variance,
            smoothing * self.square + (1 - smoothing) * square,
        )

    def gain(self, num_workers: int) -> float:
        """Return the gain, in [1, W]; 1 where nothing has been seen."""
        most = self.variance / num_workers + self.square
        return min(max((self.variance + self.square) / most, 1.0), float(num_workers)) if most > 0 else 1.0


def usual_smoothing(num_workers: int) -> float:
    """Return the published share to keep: max(0, 1 - W/1000)."""
    return max(0.0, 1 - num_workers / 1000)
