"""Norms hook: norms of parameters, gradients and updates of each parameter, in the file norms.jsonl."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxdp.hooks.every import Every
from jaxdp.optim.norms import KINDS
from jaxdp.trainer import Hook, StepInfo


class Norms(Hook):
    """Writes one line of norms at each trigger; none for a step whose update was skipped."""

    name, after, before = "norms", ("logging",), ("divergence",)

    def __init__(self, every: Every, names: Sequence[str], write: Callable[[int, Mapping[str, float]], None]):
        """Creates the hook.

        Args:
            every: Trigger of lines.
            names: Path of each parameter, as of `jaxdp.optim.norms.entry_names`.
            write: Function (step, norms by full name) -> None.
        """
        self._every, self._names, self._write = every, names, write

    def on_step(self, info: StepInfo) -> None:
        """Writes a line when due."""
        if not self._every(info.step):
            return
        sums = np.asarray(info.metrics["norms"], np.float64)
        if sums.any():
            self._write(info.step, norm_metrics(sums, self._names))


def norm_metrics(sums: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Returns the norms by full name, and the ratio of update and parameter.

    Args:
        sums: Sums of squares `[len(KINDS), num_entries]`, as of `jaxdp.optim.norms.sums_of_squares`.
        names: Path of each entry.

    Returns:
        `norms/params/PATH`, `norms/grads/PATH`, `norms/updates/PATH` and `norms/ratios/PATH` of each parameter; the ratio
        is NaN for a parameter of zeros.
    """
    norms: dict[str, np.ndarray] = dict(zip(KINDS, np.sqrt(sums), strict=True))
    params, updates = norms["params"], norms["updates"]
    norms["ratios"] = np.divide(updates, params, out=np.full_like(params, np.nan), where=params > 0)
    return {
        f"norms/{kind}/{name}": float(value)
        for kind, values in norms.items()
        for name, value in zip(names, values, strict=True)
    }
