"""Prediction with the model of a work directory: labels, hidden tokens or texts for records, read and answered in batches."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np

from jaxdp.arguments import (
    WEIGHTS,
    as_list,
    check_caller,
    check_choice,
    check_type,
    optional_number,
    step_name,
    whole_number,
)
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.data.named_files import with_word_lists
from jaxdp.data.reading.file_sources import FORMATS
from jaxdp.data.reading.raw_records import RawRecord, open_input, read_raw
from jaxdp.data.reading.tables import parsed_delimiter
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import Sampling, check_seed
from jaxdp.decoding.strategy import DecodingStrategy
from jaxdp.errors import UserError
from jaxdp.hardware.cores import num_cores
from jaxdp.inference.initial_params import weights_key
from jaxdp.inference.prediction_requests import (
    ERROR,
    RequestReader,
    examples_of,
    raw_records,
    request_columns,
)
from jaxdp.inference.scoring import TextWriter, Written
from jaxdp.inference.trained_run import open_run
from jaxdp.model import parameter_shapes
from jaxdp.parallel.devices import configure_backend, init_devices
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.spmd import compile_spmd, gather_rows
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.tasks import Task, pad_examples
from jaxdp.tasks.architecture import make_model
from jaxdp.tasks.make import make_task
from jaxdp.tasks.model_functions import apply_model

MOST_ROWS = 32
"""Records that one device answers at a time."""

TEXT_BATCHES = 8
"""Batches of sources that a task that generates texts reads at once, to batch sources of similar length."""

ALTERNATIVES = "alternatives"
"""Key of the texts after the best one, where several were requested."""

Examples = Sequence[Mapping[str, np.ndarray]]

Answer = Callable[[Examples], Iterable[dict[str, Any]]]
"""Examples -> one answer each, in order."""


class Predictor:
    """Prediction with one checkpoint of a run.

    Args:
        workdir: Work directory of the run.
        strategy: How texts are generated, of tasks that generate them; None: greedily.
        num_samples: Number of texts that are sampled for each record, with seed, seed + 1, ...; of a
            search the strategy says how many it returns.
        seed: Seed of the sampling.
        num_candidates: Tokens for each mask, of masked language modelling; None: as the run says.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake.

    Attributes:
        num_records: Records answered so far.
        num_errors: How many of them got an error for an answer.

    Raises:
        UserError: There is no run or no checkpoint, or the run's task does not predict.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        strategy: DecodingStrategy | None = None,
        num_samples: int = 1,
        seed: int = 0,
        num_candidates: int | None = None,
        step: str = "latest",
        weights: str = "ema",
        cpu_devices: int | None = None,
    ):
        run = open_run(workdir, step)
        config, self._checkpoint, self._vocabularies = run.config, run.checkpoint, run.vocabularies
        if num_candidates is not None:
            config = _with_candidates(config, num_candidates)
        self._config, self._data = config, with_word_lists(config.data, self._vocabularies.files)
        self._task = make_task(config, self._vocabularies)
        _check_task(self._task, config, workdir, writes=strategy is not None or num_samples > 1)
        check_seed(seed, num_samples)
        self._strategy, self._num_samples, self._seed = strategy, num_samples, seed
        self._weights, self._cpu_devices = weights_key(self._checkpoint, weights), cpu_devices
        self.num_records = self.num_errors = self._num_cut = 0

    def read(self, name: str, stdin: BinaryIO, form: str | None = None) -> Iterator[RawRecord]:
        """Yields the records of a file.

        Args:
            name: Path, URL, or `-` for standard input.
            stdin: Standard input.
            form: Format; None: recognised, see `open_input`, and printed where it was by the content.

        Raises:
            UserError: It cannot be read.
        """
        columns = tuple(request_columns(self._data, self._task).values())
        data = self._data
        file = open_input(name, "--input", stdin, form, columns, parsed_delimiter(data.delimiter))
        if data.encoding and file.kind in (FORMATS[data.source].endings or (".txt", ".text")):
            file = dataclasses.replace(file, encoding=data.encoding)  # of the run's own format; others are UTF-8
        if form is None and not file.path.endswith(file.name):
            print_status(f"{file.path} is read as {file.kind[1:]}; another format is set by --format")
        return read_raw(file, columns, data.errors)

    def __call__(self, records: Iterable[RawRecord]) -> Iterator[dict[str, Any]]:
        """Yields one answer a record, in order; memory does not grow with their number.

        The first records decide how many rows are answered at once.

        Args:
            records: Any number.

        Raises:
            UserError: There is no record, or the reader of the records fails.
        """
        prediction_names = (*Written._fields, ALTERNATIVES) if self._task.generated_field else self._task.prediction_names
        requests = RequestReader(self._data, self._task, self._vocabularies.tokenizer, prediction_names)(records)
        answer, at_once = None, MOST_ROWS * num_cores()
        while some := list(itertools.islice(requests, at_once)):
            examples = examples_of(some)
            if examples and answer is None:
                answer, at_once = (self._text_answer if self._task.generated_field else self._row_answer)(examples)
            found = iter(answer(examples) if examples else ())
            for request in some:
                self.num_records += 1
                self.num_errors += request.error is not None
                self._num_cut += request.is_cut
                yield request.answer({ERROR: request.error} if request.error is not None else next(found))
        if not self.num_records:
            raise UserError("there is nothing to predict: give --text, or an --input with records.")

    def report(self) -> None:
        """Prints how many records were cut, and how many have no answer."""
        if self._num_cut:
            print_status(f"{self._num_cut} of {self.num_records} records were cut to {self._task.row_lengths['tokens']} tokens")
        if self.num_errors:
            print_status(f'{self.num_errors} of {self.num_records} records have no prediction: see the "{ERROR}" at the position of each')

    def _restored(self, num_rows: int):
        """(topology, model, abstract parameters, parameters), on no more CPU devices than there are rows."""
        configure_backend(self._cpu_devices, min(num_cores(), num_rows))
        topology = init_devices()
        model = make_model(self._config, self._task, self._config.model.vocab_size, topology.platform)
        abstract_params = abstract_replicated(parameter_shapes(model.config), topology)
        return topology, model, abstract_params, restore_part(self._checkpoint, self._weights, abstract_params)

    def _row_answer(self, first: Examples) -> tuple[Answer, int]:
        """Answers from the task's outputs, and how many records are read at once."""
        task = self._task
        topology, model, abstract_params, params = self._restored(len(first))
        share = min(MOST_ROWS, -(-len(first) // topology.num_devices))
        rows = share * topology.num_devices
        end_ids = dict.fromkeys(task.eos_fields, self._vocabularies.tokenizer.eos_id)

        def batch_of(some: Examples) -> dict[str, np.ndarray]:
            return task.make_predict_batch(pad_examples(task, some, end_ids, rows)[0])

        spec = {
            name: jax.ShapeDtypeStruct((share, *array.shape[1:]), array.dtype)
            for name, array in batch_of(first[:1]).items()
        }
        apply = functools.partial(apply_model, model)
        program = compile_spmd(
            lambda params, batch: gather_rows(task.outputs(apply, params, batch)),
            topology,
            abstract_params,
            abstract_batch(spec, topology),
            mapped=(1,),
        )

        def answer(examples: Examples) -> Iterator[dict[str, Any]]:
            for start in range(0, len(examples), rows):
                some = examples[start : start + rows]
                outputs = jax.device_get(program(params, place_batch(batch_of(some), topology)))
                yield from task.predictions({name: array[: len(some)] for name, array in outputs.items()})

        return answer, rows

    def _text_answer(self, first: Examples) -> tuple[Answer, int]:
        """Answers of a task that generates texts, and how many records are read at once."""
        task, num_samples = self._task, self._num_samples
        topology, model, abstract_params, params = self._restored(len(first))
        end, places = np.int32(self._vocabularies.tokenizer.eos_id), task.row_lengths["tokens"]
        write = TextWriter(
            task, model, self._vocabularies, topology, abstract_params, self._strategy or BeamSearch(1),
            len(first) * num_samples,
        )  # fmt: skip

        def answer(examples: Examples) -> Iterator[dict[str, Any]]:
            sources = [np.append(example["tokens"], end)[:places] for example in examples for _ in range(num_samples)]
            seeds = [self._seed + sample for _ in examples for sample in range(num_samples)]
            written = write(params, sources, seeds=seeds)
            for first in range(0, len(written), num_samples):
                yield _with_alternatives(itertools.chain(*written[first : first + num_samples]))

        return answer, max(TEXT_BATCHES * write.at_once // num_samples, 1)


def predict(
    workdir: str | os.PathLike,
    records: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
    *,
    strategy: DecodingStrategy | None = None,
    num_samples: int = 1,
    seed: int = 0,
    num_candidates: int | None = None,
    step: str | int = "latest",
    weights: str = "ema",
    cpu_devices: int | None = None,
) -> list[dict[str, Any]]:
    """Answers records, which are spread over all devices.

    Args:
        workdir: Work directory of the run.
        records: Texts, or dicts that have the column of the run's data; or one of them.
        strategy: See `Predictor`, as for the others.
        num_samples: Number of texts that are sampled for each record.
        seed: Seed of the sampling.
        num_candidates: Tokens for each mask, of masked language modelling.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake.

    Returns:
        One answer a record. Of a classifier {"label", "probabilities"}; of masked language modelling
        {"candidates"}; of sequence to sequence {"text", "score", "log_probability", "finished"}, with
        `alternatives`, a list of the same, where several were requested. The other fields of the record are in
        it too, as `input_NAME` where the answer needs the name. A record that cannot be used has {"error"} instead.

    Raises:
        UserError: There is no run, no checkpoint or no record, or the run's task does not predict.
    """
    check_caller("jaxdp.predict")
    records = as_list("records", records, (str, Mapping), "a string or a mapping of columns")
    num_samples, seed, step = whole_number("num_samples", num_samples), whole_number("seed", seed), step_name(step)
    num_candidates, cpu_devices = optional_number("num_candidates", num_candidates), optional_number("cpu_devices", cpu_devices)
    check_type("strategy", strategy, (BeamSearch, Sampling, type(None)), "a Sampling, a BeamSearch or None")
    check_choice("weights", weights, WEIGHTS)
    predictor = Predictor(
        workdir, strategy=strategy, num_samples=num_samples, seed=seed, num_candidates=num_candidates, step=step,
        weights=weights, cpu_devices=cpu_devices,
    )  # fmt: skip
    answers = list(predictor(raw_records(records)))
    predictor.report()
    return answers


def _check_task(task: Task, config: RunConfig, workdir: str, writes: bool) -> None:
    if not task.predict_fields:
        raise UserError(f"--workdir={workdir} is of task={config.task}, which answers nothing: `jaxdp generate` continues texts with it.")
    if not task.generated_field and writes:
        raise UserError(
            "--num_beams, --temperature, --num_samples and their like are for tasks that write texts; "
            f"task={config.task} writes none: leave them out."
        )


def _with_candidates(config: RunConfig, num_candidates: int) -> RunConfig:
    options = config.task_options
    if "num_candidates" not in options:
        raise UserError(f"--num_candidates is for tasks that fill masks; task={config.task} fills none: leave it out.")
    return config.replaced(task_groups=config.task_groups | {config.task: options | {"num_candidates": num_candidates}})


def _with_alternatives(texts: Iterable[Written]) -> dict[str, Any]:
    first, *others = (text._asdict() for text in texts)
    return first | ({ALTERNATIVES: others} if others else {})
