"""Additive metrics: everything travels as (sum, weight) and is divided once.

A mean of means is wrong as soon as padding falls unevenly on devices,
microbatches or batches; a sum of sums is right however the examples are distributed.
Devices add in float32, the host in float64.
"""

from collections.abc import Mapping

import numpy as np

from jaxdp.errors import UserError

Sums = Mapping[str, tuple]
"""Pairs (sum, weight) of scalars by metric name, on a device or on the host."""


class Totals:
    """Running float64 totals of the `Sums` of many batches."""

    def __init__(self):
        self._totals: dict[str, np.ndarray] = {}

    def add(self, sums: Sums) -> None:
        """Adds one batch's (sum, weight) pairs, already summed over all devices."""
        for name, pair in sums.items():
            self._totals.setdefault(name, np.zeros(2)).__iadd__(np.asarray(pair, np.float64))

    def means(self) -> dict[str, float]:
        """Returns sum / weight of every metric; NaN if the total weight is 0."""
        return {
            name: float(total / weight) if weight else float("nan")
            for name, (total, weight) in self._totals.items()
        }


_FALLING = ("loss", "perplexity", "bits", "error")
_RISING = ("accuracy", "precision", "recall", "f1", "auc", "r2", "correlation", "bleu", "chrf", "match", "score")


def higher_is_better(name: str) -> bool:
    """Direction of a metric, by the last word of its name that says one: `eval/calibration_error` falls.

    Raises:
        UserError: no word of it does.
    """
    for word in reversed(name.rsplit("/", 1)[-1].split("_")):
        if word in _FALLING or word in _RISING:
            return word in _RISING
    raise UserError(
        f"eval.metric={name!r} does not say whether more of it is better; expected a name with one of the words "
        f"{', '.join(_FALLING)} (less is) or {', '.join(_RISING)} (more is)."
    )
