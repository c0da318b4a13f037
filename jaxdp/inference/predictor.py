"""Predictor: labels, masked tokens or texts for an iterable of records, in batches and in bounded memory."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from jaxdp.data.reading.file_sources import FORMATS
from jaxdp.data.reading.raw_records import RawRecord, open_input, read_raw
from jaxdp.data.reading.tables import parsed_delimiter
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import check_seed
from jaxdp.decoding.strategy import DecodingStrategy
from jaxdp.errors import UserError
from jaxdp.hardware.cores import num_cores
from jaxdp.inference.batched_outputs import MAX_ROWS, Examples, batched_outputs
from jaxdp.inference.prediction_requests import ERROR, RequestReader, examples_of, request_columns
from jaxdp.inference.prompts import CONTINUES_PROMPTS, model_kind
from jaxdp.inference.restored_model import RestoredModel
from jaxdp.inference.scoring import TextWriter, Written, rows_per_device
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.tasks.make import make_task

TEXT_BATCHES = 8
"""Batches of sources that are read at once where texts are generated, to batch sources of similar length."""

ALTERNATIVES = "alternatives"
"""Key of the texts after the best one, where several were requested."""

Answer = Callable[[Examples], Iterable[dict[str, Any]]]
"""Examples -> one answer each, in order."""


class Predictor:
    """Prediction with one model: an iterator of answers over records.

    Attributes:
        num_records: Number of records answered so far.
        num_errors: Number of them whose answer is an error.
    """

    def __init__(
        self,
        restored: RestoredModel,
        *,
        strategy: DecodingStrategy | None = None,
        num_samples: int = 1,
        seed: int = 0,
        num_candidates: int | None = None,
    ):
        """Creates the object.

        Args:
            restored: Model of a run whose task predicts.
            strategy: Decoding strategy of tasks that generate texts; None: greedy.
            num_samples: Number of texts that are sampled for each record, with seed, seed + 1, ...; the strategy of a
                beam search says how many it returns.
            seed: Seed of the first sample of each record.
            num_candidates: Number of tokens for each mask, of masked language modelling; None: that of the run.

        Raises:
            UserError: The run's task does not predict, or an argument does not suit it.
        """
        self._restored, self._num_candidates = restored, num_candidates
        self._data, self._task = restored.data_config, restored.task
        if num_candidates is not None:
            self._task = make_task(_with_candidates(restored.config, num_candidates), restored.run.vocabularies)
        _check_task(restored, generates=strategy is not None or num_samples > 1)
        self._tokenizer = restored.run.vocabularies.input_tokenizer
        check_seed(seed, num_samples)
        self._strategy, self._num_samples, self._seed = strategy or BeamSearch(1), num_samples, seed
        self.num_records = self.num_errors = self._num_cut = 0

    def read(self, name: str, stdin: BinaryIO | None, form: str | None = None) -> Iterator[RawRecord]:
        """Yields the records of a file.

        Args:
            name: Path, URL, or `-` for standard input.
            stdin: Standard input; None: `name` is another.
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
        prediction_names = (
            (*Written._fields, ALTERNATIVES) if self._task.generated_field else self._task.prediction_names
        )
        requests = RequestReader(self._data, self._task, self._tokenizer, prediction_names)(records)
        answer: Answer | None = None
        at_once = MAX_ROWS * num_cores()
        while some := list(itertools.islice(requests, at_once)):
            examples = examples_of(some)
            if examples and answer is None:
                answer, at_once = (self._text_answer if self._task.generated_field else self._row_answer)(examples)
            found = iter(answer(examples) if examples and answer is not None else ())
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
            print_status(
                f"{self._num_cut} of {self.num_records} records were cut to {self._task.row_lengths['tokens']} tokens"
            )
        if self.num_errors:
            print_status(
                f'{self.num_errors} of {self.num_records} records have no prediction: see the "{ERROR}" at the position of each'
            )

    def _row_answer(self, first: Examples) -> tuple[Answer, int]:
        """Returns a function that answers from the task's outputs, and the number of records to read at once."""
        outputs, rows = batched_outputs(self._restored, self._task, first, self._num_candidates)

        def answer(examples: Examples) -> Iterator[dict[str, Any]]:
            for found in outputs(examples):
                yield from self._task.predictions(found)

        return answer, rows

    def _text_answer(self, first: Examples) -> tuple[Answer, int]:
        """Returns a function that generates texts, and the number of records to read at once."""
        task, restored, num_samples = self._task, self._restored, self._num_samples
        restored.place(len(first))
        end, places = np.int32(self._tokenizer.eos_id), task.row_lengths["tokens"]
        num_texts = len(first) * num_samples
        write = restored.kept(
            ("texts", self._strategy, rows_per_device(num_texts, restored.topology)),
            lambda: TextWriter(
                task, restored.device_model, restored.run.vocabularies, restored.topology, restored.abstract_params,
                self._strategy, num_texts,
            ),
        )  # fmt: skip

        def answer(examples: Examples) -> Iterator[dict[str, Any]]:
            sources = [np.append(example["tokens"], end)[:places] for example in examples for _ in range(num_samples)]
            seeds = [self._seed + sample for _ in examples for sample in range(num_samples)]
            texts = write(restored.device_params, sources, seeds=seeds)
            for first in range(0, len(texts), num_samples):
                yield _with_alternatives(itertools.chain(*texts[first : first + num_samples]))

        return answer, max(TEXT_BATCHES * write.at_once // num_samples, 1)


def _check_task(restored: RestoredModel, generates: bool) -> None:
    """Raises UserError unless the task of a run predicts, and generates texts where that is requested."""
    task, name = restored.task, restored.config.task
    if not task.predict_fields:
        continues = "`jaxdp generate` continues texts with it"
        declare = "its class must declare predict_fields, and what these need, to predict (docs/extending.md)"
        fix = continues if model_kind(task, restored.config) == CONTINUES_PROMPTS else declare
        raise UserError(f"--workdir={restored.run.directory.root} is of task={name}, which answers no records: {fix}.")
    if not task.generated_field and generates:
        raise UserError(
            "--num_beams, --temperature, --num_samples and their like are for tasks that write texts; "
            f"task={name} writes none: leave them out."
        )


def _with_candidates(config: RunConfig, num_candidates: int) -> RunConfig:
    options = config.task_options
    if "num_candidates" not in options:
        raise UserError(f"--num_candidates is for tasks that fill masks; task={config.task} fills none: leave it out.")
    group = {**options, "num_candidates": num_candidates}
    return config.replaced(task_groups={**config.task_groups, config.task: group})


def _with_alternatives(texts: Iterable[Written]) -> dict[str, Any]:
    first, *others = (text._asdict() for text in texts)
    return first | ({ALTERNATIVES: others} if others else {})
