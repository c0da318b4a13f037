"""Evaluation over a whole split: sums on the devices, float64 on the host, one division; and what takes all rows at once."""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from jaxdp.data.prefetch import Prefetch
from jaxdp.metrics import Totals
from jaxdp.parallel.spmd import Program
from jaxdp.typing import HostBatch, PyTree


class EvaluationLeft(Exception):
    """The processes have agreed on a request to stop; there is no result.

    Attributes:
        request: which one.
    """

    def __init__(self, request: int):
        super().__init__(f"request {request}")
        self.request = request


def evaluate(
    program: Program,
    params: PyTree,
    batches: Iterable[HostBatch],
    place: Callable[[HostBatch], PyTree],
    make_control_word: Callable[[], PyTree],
    derived_metrics: Callable[[Mapping[str, float]], Mapping[str, float]],
    progress: Callable[[], None] = lambda: None,
    summarize: Callable[[Mapping[str, np.ndarray]], Mapping[str, float]] = lambda outputs: {},
) -> dict[str, float]:
    """Means of all metrics over all batches, as `eval/<name>`.

    Args:
        program: the compiled evaluation step.
        params: replicated parameters.
        batches: host batches; rows of padding have weight 0.
        place: puts a host batch on the devices; runs ahead in a thread.
        make_control_word: Returns this process's control word on the devices; called before each batch.
        derived_metrics: further metrics from the means.
        progress: called when a batch is done.
        summarize: further metrics from the outputs that the program collects, of all
            rows: `[rows of the split, ...]`, padding among them.

    Raises:
        EvaluationLeft: a process asked for something more urgent; all raise it
            after the same batch.
    """
    totals, collected = Totals(), []
    pending = None
    with Prefetch(batches, place) as placed:
        for batch in placed:
            results = program(params, batch, make_control_word())
            if pending is not None:  # read one batch late, so that the devices never wait
                sums, outputs, request = jax.device_get(pending)
                if request:
                    raise EvaluationLeft(int(request))
                totals.add(sums)
                collected.append(outputs)
                progress()
            pending = results
    if pending is not None:
        sums, outputs, _ = jax.device_get(pending)  # it is complete, whatever was asked meanwhile
        totals.add(sums)
        collected.append(outputs)
    means = totals.means()
    means |= derived_metrics(means)
    if collected and collected[0]:
        means |= summarize({name: np.concatenate([rows[name] for rows in collected]) for name in collected[0]})
    return {f"eval/{name}": value for name, value in means.items()}
