"""Evaluation of a split: inside a training run, and of a checkpoint by `jaxdp eval`."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdp.arguments import (
    WEIGHTS,
    check_caller,
    check_choice,
    check_type,
    optional_number,
    step_name,
)
from jaxdp.atomic_files import write_atomically
from jaxdp.checkpoint.manifest import read_item
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.data.assembly import load_dataset, load_evaluation_dataset
from jaxdp.data.dataset import Dataset
from jaxdp.data.pipeline import SequenceDataset, eval_batches
from jaxdp.data.tokenization import SPLITS
from jaxdp.errors import UserError
from jaxdp.evaluation import evaluate
from jaxdp.inference.initial_params import weights_key
from jaxdp.inference.other_data import check_keys, described, other_data
from jaxdp.inference.scoring import Scorer
from jaxdp.inference.trained_run import open_run
from jaxdp.model import Transformer, parameter_shapes
from jaxdp.parallel.control_word import control_word_maker, control_word_spec
from jaxdp.parallel.devices import (
    Topology,
    check_device_count,
    configure_backend,
    divide_batch,
    fitting_cpu_devices,
    fitting_topology,
    init_devices,
)
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.quoting import quoted_names
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.step import make_eval_step
from jaxdp.tasks import Task
from jaxdp.tasks.architecture import make_model
from jaxdp.tasks.make import batch_spec, dataset_spec, make_task
from jaxdp.tasks.model_functions import eval_outputs_of, task_loss
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir

EVALUATED_SPLITS = (*SPLITS, "test")


class Evaluator:
    """A compiled evaluation of one split; call it with replicated parameters."""

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
        spec = batch_spec(task, self._rows // topology.num_devices)
        self._program = compile_spmd(
            make_eval_step(task_loss(task, model, train=False), eval_outputs_of(task, model)),
            topology,
            abstract_params,
            abstract_batch(spec, topology),
            abstract_batch(control_word_spec(), topology),
            mapped=(1, 2),
        )
        self._make_control_word = control_word_maker(topology)
        self._scorer = Scorer(config, task, model, data, topology, abstract_params) if data.pairs else None
        self.reports: dict[str, Mapping[str, Any]] = {}
        self._absent_labels: list[str] = []  # as the person has been told

    @property
    def num_examples(self) -> int:
        """Number of rows that a call measures."""
        measured = self._config.eval.num_batches * self._rows
        return min(measured, self._source.num_rows) if measured else self._source.num_rows

    @property
    def metric_names(self) -> list[str]:
        """Full names of what a call returns."""
        structure = self._program.call.out_tree
        measured, *_ = jax.tree.unflatten(structure, [1.0] * structure.num_leaves)
        derived = self._task.derived_metrics({name: 1.0 for name in measured})
        scored = self._task.score_metrics if self._scorer else ()
        declared = [spec.name for spec in (*self._task.summary_metrics, *scored)]
        return [f"eval/{name}" for name in dict.fromkeys((*measured, *derived, *declared))]

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
            EvaluationInterrupted: a process asked for something.
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
            lambda: self._make_control_word(request(), 0),
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
        absent = summary.report.get("absent_labels", [])
        if absent and absent != self._absent_labels and self._topology.process_index == 0:
            print_status(f"the evaluated examples have none of {quoted_names(absent)}: metrics are over the labels that occur")
        self._absent_labels = absent
        return summary.metrics


class Evaluation(NamedTuple):
    """What an evaluation of a checkpoint found.

    Attributes:
        result: {"step", "split", "eval/num_examples", "eval/loss", ...}; of other data than the run's "data" too.
        report: Everything that is no single number, as WORKDIR/evaluation.json has it; empty if there is nothing.
    """

    result: dict[str, Any]
    report: dict[str, Any]


def measure_checkpoint(
    workdir: str | os.PathLike,
    *,
    step: str = "latest",
    split: str = "eval",
    weights: str = "ema",
    cpu_devices: int | None = None,
    num_batches: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluates a checkpoint and writes nothing; see `evaluate_checkpoint`."""
    run = open_run(workdir, step)
    config, checkpoint, vocabularies = run.config, run.checkpoint, run.vocabularies
    check_keys(data or {})
    other = other_data(config, split, data or {})
    config = other or config.replaced(data=data or {})
    if num_batches is not None or config.data.source != "hf_stream":  # its evaluation rows are the first batches
        config = config.replaced(eval={"num_batches": num_batches or 0})
    load = load_dataset if other is None else load_evaluation_dataset
    found = load(dataset_spec(config), vocabularies)
    saved = read_item(checkpoint, "data")
    if other is None:
        _check_fingerprint(saved, found, checkpoint)
    source = found.train if split == "train" else found.evaluation
    if source is None:
        raise UserError("--split=train cannot be evaluated for data.source=hf_stream, which has no rows to go back to.")
    configure_backend(cpu_devices, fitting_cpu_devices(config.global_batch_size))
    topology = init_devices()
    if cpu_devices is None:
        topology = fitting_topology(topology, config.global_batch_size)
    check_device_count(cpu_devices, topology)
    divide_batch(config.global_batch_size, None, topology.num_devices)
    task = make_task(config, found.vocabularies)
    model = make_model(config, task, found.vocab_size, topology.platform)
    abstract_params = abstract_replicated(parameter_shapes(model.config), topology)
    params = restore_part(checkpoint, weights_key(checkpoint, weights), abstract_params)
    if split == "train":
        found = dataclasses.replace(found, pairs=None)  # those are held out
    evaluator = Evaluator(config, task, model, found, source, topology, abstract_params)
    about = {"step": saved["step"], "split": split} | ({"data": described(other)} if other is not None else {})
    metrics = evaluator(params)
    counts = {"eval/num_examples": evaluator.num_examples}
    if found.pairs:
        counts["eval/num_scored"] = len(found.pairs.sources)
    reports = evaluator.reports
    return Evaluation(about | counts | metrics, (_merged(reports) | about) if reports else {})


def evaluate_checkpoint(
    workdir: str | os.PathLike,
    *,
    step: str | int = "latest",
    split: str = "eval",
    weights: str = "ema",
    cpu_devices: int | None = None,
    num_batches: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint from its work directory alone, on the whole of a split.

    What is no single number, such as a confusion matrix, is written to WORKDIR/evaluation.json
    where that can be written.

    Args:
        workdir: Work directory of a trained run.
        step: latest, best or a number.
        split: train, eval or test (`data.test_path` or `data.test_split`).
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake.
        num_batches: Number of batches to measure, from the first; None: the whole split. `eval.num_batches`
            holds inside training only.
        data: Keys of `config.data` that name other data of the same kind, e.g. {"eval_path": "test.csv"}.

    Returns:
        {"step", "split", "eval/num_examples" (rows measured), "eval/loss", ...}, means over those rows; of
        other data than the run's own "data" too, and where texts are generated and scored "eval/num_scored".

    Raises:
        UserError: No run, no checkpoint, or the data is not what the run was trained with.
    """
    check_caller("jaxdp.evaluate")
    step, cpu_devices = step_name(step), optional_number("cpu_devices", cpu_devices)
    num_batches = optional_number("num_batches", num_batches)
    if num_batches is not None and num_batches < 1:
        raise UserError(f"num_batches={num_batches} must be at least 1; None measures the whole split.")
    check_choice("split", split, EVALUATED_SPLITS)
    check_choice("weights", weights, WEIGHTS)
    check_type("data", data, (Mapping, type(None)), "a mapping of keys of config.data, or None")
    evaluation = measure_checkpoint(
        workdir, step=step, split=split, weights=weights, cpu_devices=cpu_devices, num_batches=num_batches, data=data
    )
    save_report(evaluation, workdir)
    return evaluation.result


def save_report(evaluation: Evaluation, workdir: str | os.PathLike) -> None:
    """Writes the report of an evaluation to WORKDIR/evaluation.json; says so where it cannot be written."""
    if not evaluation.report:
        return
    path = WorkDir(workdir).evaluation
    try:
        write_atomically(path, json.dumps(evaluation.report, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        print_status(f"{path} is not written ({error.strerror}), so `jaxdp plot` cannot draw this evaluation; its numbers are complete")


def _merged(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All reports as one; a name that an earlier one has is written as `report_name`."""
    merged: dict[str, Any] = {}
    for report, values in reports.items():
        merged |= {f"{report}_{name}" if name in merged else name: value for name, value in values.items()}
    return merged


def _check_fingerprint(saved: Mapping[str, Any], data: Dataset, checkpoint: Path) -> None:
    if saved["fingerprint"] != data.fingerprint:
        raise UserError(
            f"{data.groups[0].name} is not the data that {checkpoint} was trained with: "
            f"fingerprint {data.fingerprint[:12]} now, {saved['fingerprint'][:12]} then; restore it "
            "(data.source=stdlib: use the same Python), or name other data with --config.data.eval_path=FILE."
        )
