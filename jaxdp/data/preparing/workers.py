"""Tokenization of records in parallel worker processes, with results in order.

The main process reads and distributes chunks of records, workers clean and tokenize them, and the main process writes
the results in the order of the records. The result therefore does not depend on the number of workers. Workers are
spawned, never forked, and they run before any JAX backend starts.
"""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np

from jaxdp.data.cleaning.cleaner import TextChanges
from jaxdp.data.preparing.examples import ExamplesWriter, check_example, check_same_arrays
from jaxdp.data.preparing.scan import Excerpt
from jaxdp.data.tokenizers import ONE_THREAD
from jaxdp.errors import UserError

CHUNK_CHARS = 1 << 19
"""Characters of a chunk: large enough to amortise sending it, small enough for a smooth progress bar."""

CHUNKS_AHEAD = 4
"""Number of chunks per worker that are read before the first of them is written."""

Example = dict[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """Processing of every record; it is sent to the workers.

    Attributes:
        changes: Text changes of the cleaning.
        columns: Name that the task knows -> column of the source; the first one may be cut in two.
        prepare: `Task.prepare`: (record, tokenizer) -> example.
        tokenizer: See `jaxdp.data.tokenizers`.
    """

    changes: TextChanges
    columns: dict[str, str]
    prepare: Callable[[dict[str, Any], Any], Example]
    tokenizer: Any

    def __call__(self, excerpts: list[Excerpt]) -> list[tuple[Example, bool]]:
        """Prepares excerpts: (example, True if the next excerpt continues the same document) of each."""
        return [(self._example(excerpt), excerpt.continues) for excerpt in excerpts]

    def _example(self, excerpt: Excerpt) -> Example:
        cleaned = self.changes(excerpt.record)
        fields = {name: cleaned.fields[column] for name, column in self.columns.items()}
        first = next(iter(fields))
        if excerpt.begin or excerpt.finish is not None:
            fields[first] = fields[first][excerpt.begin : excerpt.finish]
        try:
            example = self.prepare(fields, self.tokenizer)
            check_example(self.prepare, example)
            return example
        except UserError as error:
            raise UserError(f"{excerpt.record.origin}: {error}") from error


def prepare_examples(
    excerpts: Iterable[Excerpt],
    work: Work,
    writer: ExamplesWriter,
    *,
    num_workers: int,
    advance: Callable[[int], None],
) -> None:
    """Writes the examples of all records, in order.

    Args:
        excerpts: Records, read once in this process.
        work: Processing of each record.
        writer: Receives the examples; the caller closes it.
        num_workers: Number of worker processes; 0: this process does the work.
        advance: Receives the number of characters of each chunk that is written.

    Raises:
        UserError: From the reader, the cleaner or the task; names the record.
    """
    first: Example = {}
    for (size, _), examples in _mapped(work, _chunks(excerpts), num_workers):
        for example, continues in examples:
            first = first or example
            check_same_arrays(work.prepare, first, example)
            writer.add(example, continues=continues)
        advance(size)


def _chunks(excerpts: Iterable[Excerpt]) -> Iterator[tuple[int, list[Excerpt]]]:
    """Yields consecutive records with their number of characters, about CHUNK_CHARS together."""
    chunk, size = [], 0
    for excerpt in excerpts:
        chunk.append(excerpt)
        size += sum(len(value) for value in excerpt.record.fields.values() if isinstance(value, str))
        if size >= CHUNK_CHARS:
            yield size, chunk
            chunk, size = [], 0
    if chunk:
        yield size, chunk


def _mapped(work: Work, chunks: Iterator, num_workers: int) -> Iterator[tuple[Any, list]]:
    """Yields (chunk, result) in order, from this process or from workers that are some chunks ahead."""
    if not num_workers:
        for chunk in chunks:
            yield chunk, work(chunk[1])
        return
    pending = collections.deque()
    context = multiprocessing.get_context("spawn")
    has_started = context.Event()
    with concurrent.futures.ProcessPoolExecutor(num_workers, context, _start_worker, (work, has_started)) as pool:
        try:
            for chunk in chunks:
                pending.append((chunk, pool.submit(_run_in_worker, chunk[1])))
                if len(pending) > CHUNKS_AHEAD * num_workers:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker that tokenizes was killed, likely for want of memory: set data.num_workers to fewer."
                if has_started.is_set()
                else "the workers that tokenize ended while they started, for the reason that they printed above: a script "
                'that calls jaxdp must do so under `if __name__ == "__main__":`, since each worker imports it; without '
                "workers, set data.num_workers=0."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_work: Work | None = None
"""Processing of a worker process."""


def _start_worker(work: Work, has_started: Event) -> None:
    global _work
    _work = work
    has_started.set()
    os.environ.update(ONE_THREAD)  # parallelism comes from the number of workers
    for number in (signal.SIGINT, signal.SIGHUP):  # sent to all processes; the main process ends the workers
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exits when the main process is gone, so that a killed run leaves no workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"
    parent.join()
    os._exit(1)


def _run_in_worker(excerpts: list[Excerpt]) -> list[tuple[Example, bool]]:
    assert _work is not None, "the initializer of the worker sets it"
    return _work(excerpts)
