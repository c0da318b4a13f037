"""Additive metrics: everything travels as (sum, weight) and is divided once.

A mean of means is wrong as soon as padding falls unevenly on devices,
microbatches or batches; a sum of sums is right however the rows are dealt.
Devices add in float32, the host in float64.
"""

from collections.abc import Mapping

import numpy as np

Sums = Mapping[str, tuple]
"""For each metric the pair (sum, weight) of scalars, on a device or on the host."""


class Totals:
    """Running float64 totals of many `Sums`, as an evaluation collects them."""

    def __init__(self):
        self._totals: dict[str, np.ndarray] = {}

    def add(self, sums: Sums) -> None:
        """Adds one batch's (sum, weight) pairs, already summed over all devices."""
        for name, pair in sums.items():
            self._totals.setdefault(name, np.zeros(2)).__iadd__(np.asarray(pair, np.float64))

    def means(self) -> dict[str, float]:
        """sum / weight of every metric; NaN where nothing had weight."""
        return {
            name: float(total / weight) if weight else float("nan")
            for name, (total, weight) in self._totals.items()
        }


def higher_is_better(name: str) -> bool:
    """Direction of a metric by its name: losses, perplexities and bits fall, all else rises."""
    return not name.rsplit("/", 1)[-1].startswith(("loss", "perplexity", "bits_per_byte"))
