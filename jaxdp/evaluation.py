"""Evaluation over a whole split: sums on the devices, float64 on the host, one division."""

from collections.abc import Callable, Iterable, Mapping

import jax

from jaxdp.data.prefetch import Prefetch
from jaxdp.metrics import Totals
from jaxdp.parallel.spmd import Program
from jaxdp.typing import HostBatch, PyTree


def evaluate(
    program: Program,
    params: PyTree,
    batches: Iterable[HostBatch],
    place: Callable[[HostBatch], PyTree],
    derived_metrics: Callable[[Mapping[str, float]], Mapping[str, float]],
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Means of all metrics over all batches, as `eval/<name>`.

    Args:
        program: the compiled evaluation step.
        params: replicated parameters.
        batches: host batches; rows of padding have weight 0.
        place: puts a host batch on the devices; runs ahead in a thread.
        derived_metrics: further metrics from the means.
        progress: called when a batch is done.
    """
    totals = Totals()
    pending = None
    with Prefetch(batches, place) as placed:
        for batch in placed:
            sums = program(params, batch)
            if pending is not None:  # read one batch late, so that the devices never wait
                totals.add(jax.device_get(pending))
                progress()
            pending = sums
    if pending is not None:
        totals.add(jax.device_get(pending))
    means = totals.means()
    means |= derived_metrics(means)
    return {f"eval/{name}": value for name, value in means.items()}
