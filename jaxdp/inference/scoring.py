"""Texts that the model writes: decoded on all devices, and scored against what was expected."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxdp.data.dataset import Dataset
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.strategy import DecodingStrategy, make_decode_function, truncate_at_eos
from jaxdp.evaluation import EvaluationInterrupted
from jaxdp.model import Transformer, init_cache
from jaxdp.parallel.control_word import compile_agreement
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import compile_spmd, gather_rows
from jaxdp.run_config import RunConfig
from jaxdp.tasks import Summary, Task
from jaxdp.tasks.model_functions import apply_model
from jaxdp.typing import PyTree

MOST_ROWS = 16
"""Sources that one device decodes at a time."""

NO_SEEDS = np.zeros(0, np.uint32)


class Written(NamedTuple):
    """A text that the model wrote for a source.

    Attributes:
        text: without end of text.
        score: what hypotheses are compared by: with beams the log-probability divided
            by the length penalty, else the log-probability.
        log_probability: of its tokens, end of text included.
        finished: False: cut at the most tokens.
    """

    text: str
    score: float
    log_probability: float
    finished: bool


def rows_per_device(num_texts: int, topology: Topology) -> int:
    """Returns the number of sources that one device decodes at a time."""
    return min(MOST_ROWS, -(-num_texts // topology.num_devices))


class TextWriter:
    """Writes the targets of sources, the rows spread over all devices.

    Args:
        task: of an encoder-decoder: makes the batches.
        model: the module.
        vocabularies: of what is read and written.
        topology: the devices.
        abstract_params: shapes and shardings of the parameters to come.
        strategy: how texts are written.
        num_texts: how many are asked for at once, about.
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
        self._tokenizer, self._blank_id = vocabularies.written, vocabularies.tokenizer.eos_id
        self._rows = rows_per_device(num_texts, topology)
        write = make_decode_function(
            *(decoding or (functools.partial(apply_model, model), functools.partial(init_cache, model.config))),
            strategy,
            num_new=task.row_lengths[task.generated_field],
            eos_id=self._tokenizer.eos_id,
        )
        asked = self._batch((), self._rows)
        spec = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in asked.items()}
        self._program = compile_spmd(
            lambda params, batch: gather_rows(write(params, batch)),
            topology,
            abstract_params,
            abstract_batch(spec, topology),
            mapped=(1,),
        )

    @property
    def at_once(self) -> int:
        """Sources of one batch, over all devices."""
        return self._rows * self._topology.num_devices

    def __call__(
        self,
        params: PyTree,
        sources: Sequence[np.ndarray],
        progress: Callable[[], None] = lambda: None,
        seeds: Sequence[int] | None = None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> list[list[Written]]:
        """The texts for each source, the best first: one, or of a search as many as it returns.

        Every process is given all sources, and gets all texts, in their order. Sources of
        like length are written together: a batch takes as many steps as its longest text.

        Args:
            params: replicated.
            sources: token ids of each, end of text included, at most `length`.
            progress: called when a batch is done.
            seeds: of each source, of what is drawn for it; None: nothing is drawn.
            before_batch: may raise, on all processes alike, to leave it.
        """
        at_once, mine = self.at_once, self._topology
        share = at_once // mine.num_processes
        seeds = np.zeros(len(sources), np.uint32) if seeds is None else np.asarray(seeds, np.uint32)
        written: dict[int, list[Written]] = {}
        by_length = sorted(range(len(sources)), key=lambda index: len(sources[index]))
        for start in range(0, len(sources), at_once):
            some = by_length[start : start + at_once]
            batch = self._batch([sources[index] for index in some], at_once, seeds[some])
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
        """Requests, filled up with rows that read and say nothing of worth."""
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
        """What was found for a row; a search that ran out of hypotheses found fewer than were asked for."""
        texts = zip(*(found[name][row].tolist() for name in ("scores", "log_probabilities", "finished")), strict=True)
        return [
            Written(self._tokenizer.decode(truncate_at_eos(tokens, self._tokenizer.eos_id)), *values)
            for number, (tokens, values) in enumerate(zip(found["tokens"][row], texts, strict=True))
            if number == 0 or values[0] != -np.inf
        ]


class Scorer:
    """Writes the held-out texts of the data and scores them; call it with replicated parameters.

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
        self._task, self._pairs = task, data.pairs
        search = BeamSearch(config.eval.num_beams)
        num_texts = len(data.pairs.sources)
        self._write = TextWriter(task, model, data.vocabularies, topology, abstract_params, search, num_texts)
        self._shown = np.linspace(0, num_texts - 1, min(config.log.samples, num_texts)).astype(np.int64).tolist()
        self._tokenizer = data.vocabularies.tokenizer
        self._agree = compile_agreement(topology)

    def __call__(
        self, params: PyTree, progress: Callable[[], None] = lambda: None, request: Callable[[], int] = lambda: 0
    ) -> Summary:
        """Scores of all texts.

        Args:
            params: replicated.
            progress: called when a batch is done.
            request: what this process asks all to do instead; 0: nothing.

        Raises:
            EvaluationInterrupted: a process asked for something; all raise it before the same batch,
                since one takes as long as many steps.
        """

        def leave_if_asked() -> None:
            if agreed := self._agree(request()):
                raise EvaluationInterrupted(agreed)

        written = [
            best for best, *_ in self._write(params, self._pairs.sources, progress, before_batch=leave_if_asked)
        ]
        summary = self._task.score([each.text for each in written], self._pairs.references)
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
        """What the model was given; a source that was cut has lost its end of text."""
        is_whole = source[-1] == self._tokenizer.eos_id
        return self._tokenizer.decode(source[:-1] if is_whole else source)
