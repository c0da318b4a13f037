"""Evaluation of a split: inside a training run, and of a checkpoint by `jaxdp eval`."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdp.checkpoint.manifest import read_item
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.config import read_run_config
from jaxdp.data.pipeline import RowSource, eval_batches
from jaxdp.errors import UserError
from jaxdp.evaluation import evaluate
from jaxdp.experiment import parts
from jaxdp.experiment.arguments import (
    WEIGHTS,
    check_caller,
    check_choice,
    optional_number,
    step_name,
)
from jaxdp.experiment.data import read_data
from jaxdp.experiment.dataset import Data
from jaxdp.experiment.initialise import chosen_weights, find_checkpoint
from jaxdp.experiment.scoring import Scorer
from jaxdp.experiment.tokenizing import SPLITS
from jaxdp.experiment.vocabularies import load_vocabularies
from jaxdp.model import Transformer, parameter_shapes
from jaxdp.parallel.devices import (
    Topology,
    check_device_count,
    configure_backend,
    connected_topology,
    divide_batch,
    fitting_cpu_devices,
    fitting_topology,
)
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.signals import signal_maker, signals_spec
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.step import make_eval_step
from jaxdp.tasks import Task
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir


class Evaluator:
    """A compiled evaluation of one split; call it with replicated parameters."""

    def __init__(
        self,
        config: ConfigDict,
        task: Task,
        model: Transformer,
        data: Data,
        source: RowSource,
        topology: Topology,
        abstract_params: PyTree,
    ):
        """
        Args:
            config: `global_batch_size` and `eval` are used.
            task: how rows become batches and sums.
            model: the module.
            data: the tokenizer, and texts to write and score where the task can.
            source: the split's rows.
            topology: the devices.
            abstract_params: shapes and shardings of the parameters to come.
        """
        self._config, self._task, self._source, self._topology = config, task, source, topology
        self._rows = config.global_batch_size
        spec = parts.batch_spec(task, self._rows // topology.num_devices)
        self._program = compile_spmd(
            make_eval_step(parts.task_loss(task, model, train=False), parts.collected_outputs(task, model)),
            topology,
            abstract_params,
            abstract_batch(spec, topology),
            abstract_batch(signals_spec(), topology),
            mapped=(1, 2),
        )
        self._make_signals = signal_maker(topology)
        self._scorer = Scorer(config, task, model, data, topology, abstract_params) if data.pairs else None
        self.reports: dict[str, Mapping[str, Any]] = {}

    @property
    def metric_names(self) -> list[str]:
        """Full names of what a call returns."""
        structure = self._program.call.out_tree
        measured, *_ = jax.tree.unflatten(structure, [1.0] * structure.num_leaves)
        derived = self._task.derived_metrics({name: 1.0 for name in measured})
        scored = self._scorer.metric_names if self._scorer else ()
        return [f"eval/{name}" for name in dict.fromkeys((*measured, *derived, *self._task.summary_metrics, *scored))]

    def __call__(
        self,
        params: PyTree,
        progress: Callable[[], None] = lambda: None,
        request: Callable[[], int] = lambda: 0,
    ) -> dict[str, float]:
        """All metrics over the split, as `eval/<name>`.

        Args:
            params: replicated.
            progress: called when a batch is done.
            request: what this process asks all to do instead; 0: nothing.

        Raises:
            EvaluationLeft: a process asked for something.
        """
        batches = eval_batches(
            self._source,
            self._task.make_batch,
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
            lambda: self._make_signals(request(), 0),
            self._task.derived_metrics,
            progress,
            self._summarize,
        )
        if self._scorer:
            summary = self._scorer(params, progress, request)
            self.reports["score"] = summary.report
            metrics |= {f"eval/{name}": value for name, value in summary.metrics.items()}
        return metrics

    def _summarize(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        summary = self._task.summarize(outputs)
        self.reports["summary"] = summary.report
        return summary.metrics


def evaluate_checkpoint(
    workdir: str | os.PathLike,
    *,
    step: str | int = "latest",
    split: str = "eval",
    weights: str = "ema",
    cpu_devices: int | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint from its work directory alone.

    Args:
        workdir: of a trained run.
        step: latest, best or a number.
        split: train or eval.
        weights: ema (where the run has it) or raw.
        cpu_devices: CPU devices to fake.

    What is no single number, such as a confusion matrix, is written to
    WORKDIR/evaluation.json.

    Returns:
        {"step", "split", "eval/loss", ...}, means over the split, or over its
        first `eval.num_batches` batches where the run has that set.

    Raises:
        UserError: no run, no checkpoint, or the data is not what the run was trained with.
    """
    check_caller("jaxdp.evaluate")
    step, cpu_devices = step_name(step), optional_number("cpu_devices", cpu_devices)
    check_choice("split", split, SPLITS)
    check_choice("weights", weights, WEIGHTS)
    directory = WorkDir(workdir)
    directory.require_run()
    config = read_run_config(directory.config)
    checkpoint = find_checkpoint(str(directory.root), step, config.eval.metric)
    data = read_data(config, load_vocabularies(directory))
    saved = read_item(checkpoint, "data")
    if saved["fingerprint"] != data.fingerprint:
        raise UserError(
            f"{data.groups[0].name} is not the data that {checkpoint} was trained with: "
            f"fingerprint {data.fingerprint[:12]} now, {saved['fingerprint'][:12]} then; restore it "
            "(data.source=stdlib: use the same Python)."
        )
    configure_backend(cpu_devices, fitting_cpu_devices(config.global_batch_size))
    topology = connected_topology()
    if cpu_devices is None:
        topology = fitting_topology(topology, config.global_batch_size)
    check_device_count(cpu_devices, topology)
    divide_batch(config.global_batch_size, None, topology.num_devices)
    model = parts.make_model(config, data.vocab_size, topology.platform, data.vocabularies)
    abstract_params = abstract_replicated(parameter_shapes(model.config), topology)
    params = restore_part(checkpoint, chosen_weights(checkpoint, weights), abstract_params)
    source = {"train": data.train, "eval": data.evaluation}[split]
    if source is None:
        raise UserError("--split=train cannot be evaluated for data.source=hf_stream, which has no rows to go back to.")
    task = parts.make_task(config, data.vocabularies)
    if split == "train":
        data = dataclasses.replace(data, pairs=None)  # those are held out
    evaluator = Evaluator(config, task, model, data, source, topology, abstract_params)
    result = {"step": saved["step"], "split": split, **evaluator(params)}
    for report in evaluator.reports.values():
        text = json.dumps({**report, "step": saved["step"], "split": split}, ensure_ascii=False, allow_nan=False)
        directory.evaluation.write_text(text + "\n", encoding="utf-8")
    return result
