"""Evaluator: compiled evaluation of one split, inside a training run and of a checkpoint."""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdp.data.dataset import Dataset
from jaxdp.data.pipeline import SequenceDataset, eval_batches
from jaxdp.evaluation import evaluate
from jaxdp.inference.scoring import Scorer
from jaxdp.model import Transformer
from jaxdp.parallel.control_word import control_word_maker, control_word_spec
from jaxdp.parallel.devices import Topology, divisors_up_to
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import Program, compile_spmd
from jaxdp.quoting import quoted_names
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.step import make_eval_step
from jaxdp.tasks import Task
from jaxdp.tasks.make import batch_spec, checked_make_batch
from jaxdp.tasks.model_functions import eval_outputs_of, task_loss
from jaxdp.tasks.result_check import derived_metrics, summary
from jaxdp.typing import PyTree


def compile_eval_step(
    task: Task,
    model: Transformer,
    rows: int,
    microbatch_size: int | None,
    topology: Topology,
    abstract_params: PyTree,
) -> Program:
    """Compiles the evaluation of one batch: (params, batch, control_word) -> see `make_eval_step`.

    Args:
        task: Task with the vocabularies of the run.
        model: The module.
        rows: Examples of a batch, over all devices.
        microbatch_size: Maximum number of examples that a device evaluates at once; None: its share.
        topology: Devices.
        abstract_params: Shapes and shardings of the parameters.
    """
    device_rows = rows // topology.num_devices
    largest = max(divisors_up_to(device_rows, microbatch_size or device_rows))
    return compile_spmd(
        make_eval_step(task_loss(task, model, train=False), eval_outputs_of(task, model), device_rows // largest),
        topology,
        abstract_params,
        abstract_batch(batch_spec(task, device_rows), topology),
        abstract_batch(control_word_spec(), topology),
    )


class Evaluator:
    """Compiled evaluation of one split; call it with replicated parameters.

    Attributes:
        reports: Reports of the last call by name, of everything that is no single number.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        model: Transformer,
        data: Dataset,
        source: SequenceDataset,
        topology: Topology,
        abstract_params: PyTree,
    ):
        """Compiles the programs.

        Args:
            config: Configuration; `global_batch_size`, `microbatch_size` and `eval` are used.
            task: Task with the vocabularies of the run.
            model: The module.
            data: Dataset with the tokenizers, and with pairs to generate and score if the task can.
            source: Rows of the split.
            topology: Devices.
            abstract_params: Shapes and shardings of the parameters.
        """
        self._config, self._task, self._source, self._topology = config, task, source, topology
        self._make_batch = checked_make_batch(task)
        self._rows = config.global_batch_size
        self._program = compile_eval_step(
            task, model, self._rows, config.fixed_microbatch_size, topology, abstract_params
        )
        self._make_control_word = control_word_maker(topology)
        self._scorer = Scorer(config, task, model, data, topology, abstract_params) if data.pairs else None
        self.reports: dict[str, Mapping[str, Any]] = {}
        self._absent_labels: list[str] = []  # those that were printed

    def of(self, source: SequenceDataset) -> "Evaluator":
        """Returns an evaluator of other rows with the compiled programs of this one."""
        other = copy.copy(self)
        other._source, other.reports, other._absent_labels = source, {}, []
        return other

    @property
    def num_examples(self) -> int:
        """Number of rows that a call evaluates."""
        measured = self._config.eval.num_batches * self._rows
        return min(measured, self._source.num_rows) if measured else self._source.num_rows

    @property
    def metric_names(self) -> list[str]:
        """Full names of the metrics that a call returns."""
        structure = self._program.call.out_tree
        measured, *_ = jax.tree.unflatten(structure, [1.0] * structure.num_leaves)
        derived = derived_metrics(self._task, {name: 1.0 for name in measured})
        scored = self._task.score_metrics if self._scorer else ()
        declared = [spec.name for spec in (*self._task.summary_metrics, *scored)]
        return [f"eval/{name}" for name in dict.fromkeys((*measured, *derived, *declared))]

    def __call__(
        self,
        params: PyTree,
        progress: Callable[[], None] = lambda: None,
        request: Callable[[], int] = lambda: 0,
    ) -> dict[str, float]:
        """Evaluates the split and returns all metrics, as `eval/<name>`.

        Args:
            params: Replicated parameters.
            progress: Called after each batch.
            request: Returns the request of this process to all others; 0: none.

        Raises:
            EvaluationInterrupted: A process has sent a request.
        """
        batches = eval_batches(
            self._source,
            self._make_batch,
            global_batch_size=self._rows,
            num_processes=self._topology.num_processes,
            process_index=self._topology.process_index,
            num_batches=self._config.eval.num_batches,
        )
        metrics = evaluate(
            self._program,
            params,
            batches,
            lambda batch: place_batch(batch, self._topology),
            lambda: self._make_control_word(request(), 0),
            functools.partial(derived_metrics, self._task),
            progress,
            self._summarize,
        )
        if self._scorer:
            scored = self._scorer(params, progress, request)
            self.reports["score"] = scored.report
            metrics |= {f"eval/{name}": value for name, value in scored.metrics.items()}
        return metrics

    def _summarize(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        found = summary(self._task, outputs)
        self.reports["summary"] = found.report
        absent = found.report.get("absent_labels", [])
        if absent and absent != self._absent_labels and self._topology.process_index == 0:
            print_status(
                f"the evaluated examples have none of {quoted_names(absent)}: metrics are over the labels that occur"
            )
        self._absent_labels = absent
        return found.metrics
