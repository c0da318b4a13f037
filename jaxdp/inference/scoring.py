"""Generated texts: decoded on all devices, and scored against the references of the validation split."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxdp.data.dataset import Dataset
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.eos import truncate_at_eos
from jaxdp.decoding.strategy import DecodingStrategy, make_decode_function
from jaxdp.evaluation import EvaluationInterrupted
from jaxdp.model import Transformer, init_cache
from jaxdp.parallel.control_word import compile_agreement
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import compile_spmd, gather_rows
from jaxdp.run_config import RunConfig
from jaxdp.tasks import Summary, Task
from jaxdp.tasks.model_functions import apply_model
from jaxdp.tasks.result_check import scores
from jaxdp.typing import PyTree

MAX_ROWS = 16
"""Limit of sources that one device decodes at a time."""

NO_SEEDS = np.zeros(0, np.uint32)


class Written(NamedTuple):
    """Text that the model generated for a source.

    Attributes:
        text: Text without the end-of-sequence token.
        score: Value by which hypotheses are compared: of a beam search the log-probability divided by the length
            penalty, else the log-probability.
        log_probability: Log-probability of its tokens, end-of-sequence token included.
        finished: Whether the end-of-sequence token was generated; otherwise the text was cut at the limit of tokens.
    """

    text: str
    score: float
    log_probability: float
    finished: bool


def rows_per_device(num_texts: int, topology: Topology) -> int:
    """Returns the number of sources that one device decodes at a time."""
    return min(MAX_ROWS, -(-num_texts // topology.num_devices))


class TextWriter:
    """Generator of the targets of sources, the rows spread over all devices.

    Args:
        task: Task of an encoder-decoder; it makes the batches.
        model: The module.
        vocabularies: Vocabularies of sources and targets.
        topology: Devices.
        abstract_params: Shapes and shardings of the parameters.
        strategy: Decoding strategy.
        num_texts: Approximate number of texts of one call.
        decoding: (apply, make_cache) as `make_decode_function` takes them; None: the model's own.
    """

    def __init__(
        self,
        task: Task,
        model: Transformer,
        vocabularies: Vocabularies,
        topology: Topology,
        abstract_params: PyTree,
        strategy: DecodingStrategy,
        num_texts: int,
        decoding: tuple[Callable, Callable] | None = None,
    ):
        self._task, self._topology = task, topology
        self._tokenizer, self._blank_id = vocabularies.output_tokenizer, vocabularies.input_tokenizer.eos_id
        self._eos_ids = vocabularies.eos_ids
        self._rows = rows_per_device(num_texts, topology)
        write = make_decode_function(
            *(decoding or (functools.partial(apply_model, model), functools.partial(init_cache, model.config))),
            strategy,
            num_new=task.row_lengths[task.generated_field],
            eos_id=self._eos_ids,
        )
        example = self._batch((), self._rows)
        spec = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in example.items()}
        self._program = compile_spmd(
            lambda params, batch: gather_rows(write(params, batch)),
            topology,
            abstract_params,
            abstract_batch(spec, topology),
        )

    @property
    def at_once(self) -> int:
        """Number of sources of one batch, over all devices."""
        return self._rows * self._topology.num_devices

    def __call__(
        self,
        params: PyTree,
        sources: Sequence[np.ndarray],
        progress: Callable[[], None] = lambda: None,
        seeds: Sequence[int] | None = None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> list[list[Written]]:
        """Generates the texts for each source, the best first: one, or of a beam search the number that it returns.

        Every process takes all sources and returns all texts, in their order. Sources of
        similar length are decoded together: a batch takes as many steps as its longest text.

        Args:
            params: Replicated parameters.
            sources: Token ids of each source, end-of-sequence token included, at most `length`.
            progress: Called after each batch.
            seeds: Seed of each source; None: nothing is sampled.
            before_batch: Called before each batch; may raise, on all processes alike, to stop.
        """
        at_once, mine = self.at_once, self._topology
        share = at_once // mine.num_processes
        seed_of = np.zeros(len(sources), np.uint32) if seeds is None else np.asarray(seeds, np.uint32)
        written: dict[int, list[Written]] = {}
        by_length = sorted(range(len(sources)), key=lambda index: len(sources[index]))
        for start in range(0, len(sources), at_once):
            some = by_length[start : start + at_once]
            batch = self._batch([sources[index] for index in some], at_once, seed_of[some])
            first = mine.process_index * share
            batch = {name: array[first : first + share] for name, array in batch.items()}
            before_batch()
            found = jax.device_get(self._program(params, place_batch(batch, mine)))
            written |= {index: self._written(found, row) for row, index in enumerate(some)}
            progress()
        return [written[index] for index in range(len(sources))]

    def _batch(
        self, sources: Sequence[np.ndarray], num_rows: int, seeds: np.ndarray = NO_SEEDS
    ) -> dict[str, np.ndarray]:
        """Returns a batch of requests, filled up with padding rows."""
        places = self._task.row_lengths["tokens"]
        tokens = np.full((num_rows, places), self._blank_id, np.int32)
        num_tokens = np.ones(num_rows, np.int32)
        for row, source in enumerate(sources):
            tokens[row, : len(source)], num_tokens[row] = source, len(source)
        return self._task.make_predict_batch({"tokens": tokens, "num_tokens": num_tokens}) | {
            "seeds": np.pad(seeds, (0, num_rows - len(seeds))),
            "offset": np.zeros(num_rows, np.int32),
        }

    def _written(self, found: dict[str, np.ndarray], row: int) -> list[Written]:
        """Returns the texts of a row; a beam search that ran out of hypotheses has fewer than requested."""
        texts = zip(*(found[name][row].tolist() for name in ("scores", "log_probabilities", "finished")), strict=True)
        return [
            Written(self._tokenizer.decode(truncate_at_eos(tokens, self._eos_ids)), *values)
            for number, (tokens, values) in enumerate(zip(found["tokens"][row], texts, strict=True))
            if number == 0 or values[0] != -np.inf
        ]


class Scorer:
    """Scorer of texts that are generated for the sources of the validation split; call it with replicated parameters.

    The report has `samples` too: `log.samples` of the texts, the same at every call, as
    {"source", "reference", "output"}.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        model: Transformer,
        data: Dataset,
        topology: Topology,
        abstract_params: PyTree,
    ):
        self._task, self._pairs = task, data.pairs_to_score
        search = BeamSearch(config.eval.num_beams)
        num_texts = len(self._pairs.sources)
        self._write = TextWriter(task, model, data.vocabularies, topology, abstract_params, search, num_texts)
        self._shown = np.linspace(0, num_texts - 1, min(config.log.samples, num_texts)).astype(np.int64).tolist()
        self._tokenizer = data.vocabularies.input_tokenizer
        self._agree = compile_agreement(topology)

    def __call__(
        self, params: PyTree, progress: Callable[[], None] = lambda: None, request: Callable[[], int] = lambda: 0
    ) -> Summary:
        """Generates and scores all texts.

        Args:
            params: Replicated parameters.
            progress: Called after each batch.
            request: Returns the request of this process to all others; 0: none.

        Raises:
            EvaluationInterrupted: A process has sent a request; all raise it before the same batch,
                since a batch takes as long as many steps.
        """

        def stop_if_requested() -> None:
            if agreed := self._agree(request()):
                raise EvaluationInterrupted(agreed)

        written = [
            best for best, *_ in self._write(params, self._pairs.sources, progress, before_batch=stop_if_requested)
        ]
        summary = scores(self._task, [each.text for each in written], self._pairs.references)
        samples = [
            {
                "source": self._read(self._pairs.sources[number]),
                "reference": self._pairs.references[number],
                "output": written[number].text,
            }
            for number in self._shown
        ]
        return summary._replace(report=summary.report | {"samples": samples})

    def _read(self, source: np.ndarray) -> str:
        """Decodes a source; one that was cut has lost its end-of-sequence token."""
        is_whole = source[-1] == self._tokenizer.eos_id
        return self._tokenizer.decode(source[:-1] if is_whole else source)
