"""Evaluation of a checkpoint on a split of its run's data, or on other data of the same kind."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdp.arguments import check_caller, check_choice, check_type, optional_number
from jaxdp.atomic_files import write_atomically
from jaxdp.checkpoint.manifest import STATE, read_item, require_manifest
from jaxdp.checkpoint.remote_copy import read_directory, send_file
from jaxdp.data.assembly import load_dataset, load_evaluation_dataset
from jaxdp.data.dataset import Dataset
from jaxdp.data.tokenization import SPLITS
from jaxdp.errors import UserError
from jaxdp.inference.evaluator import Evaluator
from jaxdp.inference.other_data import check_keys, described, other_data
from jaxdp.inference.restored_model import RestoredModel, restored_model
from jaxdp.parallel.devices import divide_batch
from jaxdp.report.terminal import print_status
from jaxdp.tasks.make import dataset_spec, make_task

EVALUATED_SPLITS = (*SPLITS, "test")


class Evaluation(NamedTuple):
    """Result of an evaluation of a checkpoint.

    Attributes:
        result: {"step", "split", "eval/num_examples", "eval/loss", ...}; of other data than the run's "data" too.
        report: Everything that is no single number, as WORKDIR/evaluation.json has it; empty if there is nothing.
    """

    result: dict[str, Any]
    report: dict[str, Any]


class EvaluationRequest(NamedTuple):
    """Checked arguments of an evaluation.

    Attributes:
        split: train, eval or test.
        num_batches: Number of batches to measure; None: the whole split.
        data: Keys of `config.data` that name other data.
    """

    split: str
    num_batches: int | None
    data: Mapping[str, Any]


def evaluation_request(split: str, num_batches: int | None, data: Mapping[str, Any] | None) -> EvaluationRequest:
    """Checks the arguments of an evaluation, before anything is read.

    Raises:
        UserError: An argument is of another type or out of range.
    """
    num_batches = optional_number("num_batches", num_batches)
    if num_batches is not None and num_batches < 1:
        raise UserError(f"num_batches={num_batches} must be at least 1; None measures the whole split.")
    check_choice("split", split, EVALUATED_SPLITS)
    check_type("data", data, (Mapping, type(None)), "a mapping of keys of config.data, or None")
    return EvaluationRequest(split, num_batches, data or {})


def measure(restored: RestoredModel, request: EvaluationRequest) -> Evaluation:
    """Evaluates a model on the whole of a split, and writes nothing.

    Args:
        restored: Model of a run.
        request: Checked arguments.

    Raises:
        UserError: The data is not what the run was trained with, or the batch does not divide over the devices.
    """
    run, split, num_batches = restored.run, request.split, request.num_batches
    check_keys(request.data)
    other = other_data(run.config, split, request.data)
    config = other or run.config.replaced(data=request.data)
    if num_batches is not None or config.data.source != "hf_stream":  # its evaluation rows are the first batches
        config = config.replaced(eval={"num_batches": num_batches or 0})
    load = load_dataset if other is None else load_evaluation_dataset
    found = load(dataset_spec(config), run.vocabularies)
    manifest = require_manifest(run.checkpoint)
    if other is None and manifest.kind == STATE:
        _check_fingerprint(read_item(run.checkpoint, "data"), found, run.checkpoint)
    source = found.train if split == "train" else found.evaluation
    if source is None:
        raise UserError("--split=train cannot be evaluated for data.source=hf_stream, which has no rows to go back to.")
    restored.place(config.global_batch_size, evenly=True)
    divide_batch(config.global_batch_size, None, restored.topology.num_devices)
    if split == "train":
        found = dataclasses.replace(found, pairs=None)  # those are of the validation split

    def compiled() -> Evaluator:
        task = make_task(config, found.vocabularies)
        return Evaluator(
            config, task, restored.device_model, found, source, restored.topology, restored.abstract_params
        )

    evaluator = restored.kept(("evaluator", split, repr(config), found.fingerprint), compiled)
    if config.data.source == "hf_stream":  # each call reads its rows again, and the fingerprint does not cover them
        evaluator = evaluator.of(source)
    about = {"step": manifest.step, "split": split} | ({"data": described(other)} if other is not None else {})
    metrics = evaluator(restored.device_params)
    counts = {"eval/num_examples": evaluator.num_examples}
    if found.pairs:
        counts["eval/num_scored"] = len(found.pairs.sources)
    reports = evaluator.reports
    return Evaluation(about | counts | metrics, (_merged(reports) | about) if reports else {})


def measure_checkpoint(
    workdir: str | os.PathLike[str],
    *,
    step: str | int = "latest",
    split: str = "eval",
    weights: str = "ema",
    cpu_devices: int | None = None,
    sync: str | None = None,
    num_batches: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluates a checkpoint and writes nothing; see `evaluate`."""
    request = evaluation_request(split, num_batches, data)
    return measure(restored_model(workdir, step, weights, cpu_devices, sync), request)


def evaluate(
    workdir: str | os.PathLike[str],
    *,
    step: str | int = "latest",
    split: str = "eval",
    weights: str = "ema",
    cpu_devices: int | None = None,
    sync: str | None = None,
    num_batches: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint from its work directory alone, on the whole of a split.

    What is no single number, such as a confusion matrix, is written to WORKDIR/evaluation.json
    where that can be written. `jaxdp.load` keeps the model and its compiled programs for further calls.

    Args:
        workdir: Work directory of a trained run.
        step: latest, best or a number.
        split: train, eval or test (`data.test_path` or `data.test_split`).
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake.
        sync: Layout of the parameters: pmean replicates them, zero3 shards them over the devices; None: that of the run.
        num_batches: Number of batches to measure, from the first; None: the whole split. `eval.num_batches`
            holds inside training only.
        data: Keys of `config.data` that name other data of the same kind, e.g. {"eval_path": "test.csv"}.

    Returns:
        {"step", "split", "eval/num_examples" (rows measured), "eval/loss", ...}, means over those rows; of
        other data than the run's own "data" too, and where texts are generated and scored "eval/num_scored".

    Raises:
        UserError: There is no run or no checkpoint, or the data is not what the run was trained with.
    """
    check_caller("jaxdp.evaluate")
    evaluation = measure_checkpoint(
        workdir,
        step=step,
        split=split,
        weights=weights,
        cpu_devices=cpu_devices,
        sync=sync,
        num_batches=num_batches,
        data=data,
    )
    save_report(evaluation, workdir)
    return evaluation.result


def save_report(evaluation: Evaluation, workdir: str | os.PathLike[str]) -> None:
    """Writes the report of an evaluation to WORKDIR/evaluation.json; says so where it cannot be written."""
    if not evaluation.report:
        return
    path = read_directory(workdir).evaluation
    try:
        write_atomically(path, json.dumps(evaluation.report, ensure_ascii=False, allow_nan=False) + "\n")
        send_file(path)
    except OSError as error:
        print_status(
            f"{path} is not written ({error.strerror}), so `jaxdp plot` cannot draw this evaluation; its numbers are complete"
        )


def _merged(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merges all reports; a name that an earlier one has becomes `report_name`."""
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
