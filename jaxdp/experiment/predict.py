"""`jaxdp predict`: what the model of a work directory says of records: labels, hidden tokens, translations."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdp.checkpoint.restoring import restore_part
from jaxdp.config import read_run_config
from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.reading.records import Record
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.errors import UserError
from jaxdp.experiment import parts
from jaxdp.experiment.arguments import (
    WEIGHTS,
    as_list,
    check_caller,
    check_choice,
    check_type,
    optional_number,
    step_name,
    whole_number,
)
from jaxdp.experiment.initialise import chosen_weights, find_checkpoint
from jaxdp.experiment.scoring import TextWriter, Written
from jaxdp.experiment.vocabularies import load_vocabularies
from jaxdp.inference.beam import BeamSearch
from jaxdp.inference.sampling import Sampling, check_seed
from jaxdp.inference.strategy import Strategy
from jaxdp.model import Transformer, parameter_shapes
from jaxdp.parallel.devices import Topology, configure_backend, connected_topology, num_cores
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.spmd import compile_spmd, gather_rows
from jaxdp.tasks import Task, pad_examples
from jaxdp.terminal import say
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir

MOST_ROWS = 32
"""Records that one device answers at a time."""

Examples = Sequence[Mapping[str, np.ndarray]]


def predict(
    workdir: str | os.PathLike,
    records: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
    *,
    strategy: Strategy | None = None,
    num_samples: int = 1,
    seed: int = 0,
    num_candidates: int | None = None,
    step: str | int = "latest",
    weights: str = "ema",
    cpu_devices: int | None = None,
) -> list[dict[str, Any]]:
    """One answer a record, the records spread over all devices.

    Args:
        workdir: of a trained run.
        records: texts, or dicts that have the column of the run's data; or one of them.
        strategy: how texts are written, of tasks that write; None: greedily.
        num_samples: texts that are drawn for each record, with seed, seed + 1, ...; of a
            search say in the strategy how many it returns.
        seed: for the draws.
        num_candidates: tokens for each mask, of masked language modelling; None: as the run says.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: CPU devices to fake.

    Returns:
        Of a classifier {"label", "probabilities"}; of masked language modelling
        {"candidates"}; of sequence to sequence {"text", "score", "log_probability",
        "finished"}, with `alternatives`, a list of the same, where several were asked for.

    Raises:
        UserError: no run, no checkpoint, a run that answers nothing, or a record that
            cannot be read; it is named by its line.
    """
    check_caller("jaxdp.predict")
    records = as_list("records", records, (str, Mapping), "a string or a mapping of columns")
    num_samples, seed, step = whole_number("num_samples", num_samples), whole_number("seed", seed), step_name(step)
    num_candidates, cpu_devices = optional_number("num_candidates", num_candidates), optional_number("cpu_devices", cpu_devices)
    check_type("strategy", strategy, (BeamSearch, Sampling, type(None)), "a Sampling, a BeamSearch or None")
    check_choice("weights", weights, WEIGHTS)
    directory = WorkDir(workdir)
    directory.require_run()
    config = read_run_config(directory.config)
    if num_candidates is not None:
        _set_candidates(config, num_candidates)
    vocabularies = load_vocabularies(directory)
    tokenizer = vocabularies.tokenizer
    task = parts.make_task(config, vocabularies)
    if not task.asked:
        raise UserError(f"--workdir={workdir} is of task={config.task}, which answers nothing: `jaxdp generate` continues texts with it.")
    if not records:
        raise UserError("there is nothing to predict: give --text, or an --input with a record a line.")
    if not task.score_metrics and (strategy is not None or num_samples > 1):
        raise UserError(
            "--num_beams, --temperature, --num_samples and their like are for tasks that write texts; "
            f"task={config.task} writes none: leave them out."
        )
    check_seed(seed, num_samples)
    examples = _examples(config, task, tokenizer, records)
    checkpoint = find_checkpoint(str(directory.root), step, config.eval.metric)
    configure_backend(cpu_devices, min(num_cores(), len(records)))
    topology = connected_topology()
    model = parts.make_model(config, config.model.vocab_size, topology.platform, vocabularies)
    abstract_params = abstract_replicated(parameter_shapes(model.config), topology)
    params = restore_part(checkpoint, chosen_weights(checkpoint, weights), abstract_params)
    if not task.score_metrics:
        return list(_answers(task, model, tokenizer, topology, abstract_params, params, examples))
    places = task.row_lengths["tokens"]
    end = np.int32(tokenizer.end_of_text_id)
    sources = [np.append(example["tokens"], end)[:places] for example in examples for _ in range(num_samples)]
    seeds = [seed + sample for _ in examples for sample in range(num_samples)]
    write = TextWriter(
        task, model, vocabularies, topology, abstract_params, strategy or BeamSearch(1), len(sources)
    )
    written = write(params, sources, seeds=seeds)
    return [
        _with_alternatives(itertools.chain(*written[first : first + num_samples]))
        for first in range(0, len(written), num_samples)
    ]


def _set_candidates(config: ConfigDict, num_candidates: int) -> None:
    options = config.get(config.task, {})
    if "num_candidates" not in options:
        raise UserError(f"--num_candidates is for tasks that fill masks; task={config.task} fills none: leave it out.")
    options.num_candidates = num_candidates


def _with_alternatives(texts: Iterable[Written]) -> dict[str, Any]:
    first, *others = (text._asdict() for text in texts)
    return first | ({"alternatives": others} if others else {})


def _examples(
    config: ConfigDict, task: Task, tokenizer: Tokenizer, records: Sequence[str | Mapping[str, Any]]
) -> Examples:
    """Each record cleaned and tokenized as the training data was."""
    columns = {field: config.data[f"{field}_column"] for field in task.asked}
    changes = Cleaner(config.data.cleaning, task.asked).changes()
    examples, num_long = [], 0
    for number, record in enumerate(records, 1):
        try:
            fields = _fields(record, columns)
            cleaned = changes.around(task.markers, Record(fields, f"record {number}"))
            example = task.prepare_request(cleaned.fields, tokenizer)
        except UserError as error:
            raise UserError(f"record {number}: {error}") from error
        num_tokens = len(example["tokens"]) + ("tokens" in task.terminated and task.score_metrics != ())
        if num_tokens > task.row_lengths["tokens"]:
            num_long += 1
            if config.data.long_documents == "error":
                raise UserError(
                    f"record {number} has {num_tokens} tokens, but the model reads {task.row_lengths['tokens']}: "
                    "shorten it, or train with data.long_documents=cut, which cuts here too."
                )
        examples.append(example)
    if num_long:
        say(f"{num_long} of {len(records)} records were cut to {task.row_lengths['tokens']} tokens")
    return examples


def _fields(record: str | Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """The texts that are asked about, by the task's names."""
    if isinstance(record, str):
        return dict.fromkeys(columns, record)
    fields = {}
    for field, column in columns.items():
        if not isinstance(record.get(column), str):
            raise UserError(f"it has no text in {column!r}, the column that the run was trained with; it has {', '.join(map(repr, record)) or 'nothing'}.")
        fields[field] = record[column]
    return fields


def _answers(
    task: Task,
    model: Transformer,
    tokenizer: Tokenizer,
    topology: Topology,
    abstract_params: PyTree,
    params: PyTree,
    examples: Examples,
) -> Iterator[dict[str, Any]]:
    """What the task's outputs say of each example."""
    rows = min(MOST_ROWS, -(-len(examples) // topology.num_devices)) * topology.num_devices
    end_ids = dict.fromkeys(task.terminated, tokenizer.end_of_text_id)

    def batch_of(some: Examples) -> dict[str, np.ndarray]:
        return task.make_request_batch(pad_examples(task, some, end_ids, rows)[0])

    share = rows // topology.num_devices
    spec = {
        name: jax.ShapeDtypeStruct((share, *array.shape[1:]), array.dtype)
        for name, array in batch_of(examples[:1]).items()
    }
    apply = functools.partial(parts.apply_model, model)
    program = compile_spmd(
        lambda params, batch: gather_rows(task.outputs(apply, params, batch)),
        topology,
        abstract_params,
        abstract_batch(spec, topology),
        mapped=(1,),
    )
    for start in range(0, len(examples), rows):
        some = examples[start : start + rows]
        outputs = jax.device_get(program(params, place_batch(batch_of(some), topology)))
        yield from task.answers({name: array[: len(some)] for name, array in outputs.items()})
