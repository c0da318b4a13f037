"""Evaluation of a whole split: float32 sums on devices, float64 totals on the host, one final division.

Metrics that are not means, such as F1, are computed from the collected outputs of all examples.
"""

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from jaxdp.data.prefetch import Prefetch
from jaxdp.metrics import Totals
from jaxdp.parallel.spmd import Program
from jaxdp.typing import HostBatch, PyTree


class EvaluationInterrupted(Exception):
    """Raised when the processes have agreed on a request during an evaluation, which then has no result.

    Attributes:
        request: Value of the agreed `jaxdp.trainer.Request`.
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
    """Computes the means of all metrics over all batches.

    Args:
        program: Compiled evaluation step.
        params: Replicated parameters.
        batches: Host batches; padding examples have weight 0.
        place: Transfers a host batch to the devices; runs ahead in a thread.
        make_control_word: Returns this process's control word on the devices; called before each batch.
        derived_metrics: Computes further metrics from the means.
        progress: Called after each batch.
        summarize: Computes further metrics from the eval outputs of the whole split,
            `[examples of the split, ...]` including padding examples.

    Returns:
        Metrics by name, `eval/<name>`.

    Raises:
        EvaluationInterrupted: A process has sent a request. All processes raise it after
            the same batch.
    """
    totals, eval_outputs = Totals(), []
    pending = None
    with Prefetch(batches, place) as placed:
        for batch in placed:
            results = program(params, batch, make_control_word())
            if pending is not None:  # read one batch late, so that the devices never wait
                sums, outputs, request = jax.device_get(pending)
                if request:
                    raise EvaluationInterrupted(int(request))
                totals.add(sums)
                eval_outputs.append(outputs)
                progress()
            pending = results
    if pending is not None:
        sums, outputs, _ = jax.device_get(pending)  # a request is ignored: the evaluation is complete
        totals.add(sums)
        eval_outputs.append(outputs)
    means = totals.means()
    means |= derived_metrics(means)
    if eval_outputs and eval_outputs[0]:
        means |= summarize({name: np.concatenate([part[name] for part in eval_outputs]) for name in eval_outputs[0]})
    return {f"eval/{name}": value for name, value in means.items()}
