"""Gradient noise scale from the gradient norms at two batch sizes: one device's share, and the global batch.

Source: McCandlish et al. 2018, An Empirical Model of Large-Batch Training, appendix A.1.
"""

import dataclasses
import math


@dataclasses.dataclass
class NoiseScale:
    """Running estimate of the simple noise scale: the batch size at which noise and gradient are equally large.

    The two unbiased estimates are averaged over the steps before they are divided, since the mean of their ratios is
    biased.

    Attributes:
        small: Sequences of one device.
        large: Sequences of the global batch.
        decay: Decay of both averages.
    """

    small: int
    large: int
    decay: float = 0.99
    _variance: float = 0.0
    _squared_norm: float = 0.0

    def add(self, small_squares: float, large_squares: float) -> None:
        """Adds one step; values that are not finite do not count.

        Args:
            small_squares: Mean squared norm of the gradients of single devices.
            large_squares: Squared norm of the gradient of the global batch.
        """
        if not (math.isfinite(small_squares) and math.isfinite(large_squares)):
            return
        variance, squared_norm = estimates(small_squares, large_squares, self.small, self.large)
        self._variance = self.decay * self._variance + (1 - self.decay) * variance
        self._squared_norm = self.decay * self._squared_norm + (1 - self.decay) * squared_norm

    @property
    def value(self) -> float:
        """Noise scale in sequences; NaN while the estimate of the squared norm is not positive."""
        return self._variance / self._squared_norm if self._squared_norm > 0 else math.nan


def estimates(small_squares: float, large_squares: float, small: int, large: int) -> tuple[float, float]:
    """Returns unbiased estimates of the trace of the covariance of gradients of single sequences, and of the squared norm of their mean."""
    variance = (small_squares - large_squares) / (1 / small - 1 / large)
    return variance, (large * large_squares - small * small_squares) / (large - small)
