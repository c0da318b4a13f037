"""Outer optimizer of local training: SGD with Nesterov momentum on the averaged differences of the workers.

Source: Douillard et al. 2023, DiLoCo, algorithm 1; the formula is that of `torch.optim.SGD(nesterov=True)`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree

LEARNING_RATE, MOMENTUM = 1.0, 0.5
"""Settings if unset: the best of those tried on the quickstart, 80 and 16 synchronisations. DiLoCo has 0.7 and 0.9."""


@dataclasses.dataclass(frozen=True)
class OuterOptimizer:
    """SGD with Nesterov momentum.

    Attributes:
        learning_rate: Learning rate; 1 without momentum is the plain average of the workers.
        momentum: Momentum; 0: none, and no state for it.
    """

    learning_rate: float
    momentum: float

    def init(self, params: PyTree) -> PyTree:
        """Returns the momentum at step 0; None without momentum."""
        return jax.tree.map(jnp.zeros_like, params) if self.momentum else None

    def step(self, params: PyTree, momentum: PyTree, difference: PyTree) -> tuple[PyTree, PyTree]:
        """Returns the next parameters and their momentum.

        Args:
            params: Outer parameters.
            momentum: Momentum before the step, as `init` returns it.
            difference: Outer parameters minus the average of the workers: the gradient.
        """
        direction = difference
        if self.momentum:
            momentum = jax.tree.map(lambda old, new: self.momentum * old + new, momentum, difference)
            direction = jax.tree.map(lambda new, old: new + self.momentum * old, difference, momentum)
        return jax.tree.map(lambda param, change: param - self.learning_rate * change, params, direction), momentum
