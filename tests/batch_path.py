"""Files that a batch passes from the configuration to the train step, counted by watching every call of a small run.

    JAX_PLATFORMS=cpu python tests/batch_path.py

A run with empty caches is watched in all threads, from the call of `jaxdp.train` until its first batch is in the train
step. A file counts if one of its functions receives or returns data: group `data` of the configuration, what is made of it
(specification, source, part, dataset), or records, tokens, sequences or batches. Data is recognised by its class, or by
its content: the corpus consists of three letters. Containers of data are data. Constructors that dataclasses generate
have no file, and `next` has no arguments, so a file that only defines a dataclass or only forwards an iterator does
not count. PLUMBING is left out.
"""

import collections
import dataclasses
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

import jaxdp

PACKAGE = Path(jaxdp.__file__).parent

LETTERS = "zqj"

CODES = frozenset(map(ord, LETTERS))
"""Token ids of the corpus with `data.tokenizer=byte`."""

DATA_CLASSES = {
    *("DataConfig", "TaskData", "DatasetSpec", "SourceSpec", "Source", "DataFile", "Part", "Record", "Excerpt"),
    *("Examples", "Prepared", "Dataset", "BlockFile", "DiskArray", "MemoryArray", "ShardedArray", "RaggedArray"),
    *("TokenWindows", "IndexedLoader", "Prefetch"),
}
"""Classes of jaxdp that describe or hold data."""

PLUMBING = ("errors", "json_files", "lock", "provenance", "parallel/devices", "hooks/logging")
"""Files that are not counted: errors, JSON, locks, provenance, devices and logging."""

MIN_TEXT = 12
"""Length from which text of these letters is taken for text of the corpus."""

MAX_DEPTH = 3
"""Depth to which containers are searched."""


def is_data(value: Any, depth: int = 0) -> bool:
    """Returns whether a value is data, or contains some."""
    if isinstance(value, str):
        return len(value) >= MIN_TEXT and set(value[:MIN_TEXT]) <= {*LETTERS, "\n"}
    if isinstance(value, bytes | bytearray):
        return len(value) >= MIN_TEXT and set(value[:MIN_TEXT]) <= {*CODES, ord("\n")}
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iu" and value.size > 3 and set(value.ravel()[:4000].tolist()) >= CODES
    if type(value).__module__.startswith("jaxdp."):
        return type(value).__name__ in DATA_CLASSES
    if depth == MAX_DEPTH:
        return False
    if isinstance(value, Mapping):
        return any(is_data(each, depth + 1) for each in list(value.values()))
    return isinstance(value, tuple | list) and any(is_data(each, depth + 1) for each in value)


@dataclasses.dataclass(frozen=True)
class Count:
    """Functions that received or returned data, by file relative to the package.

    Attributes:
        files: From the call of `jaxdp.train` on.
        loading: Those from the call of `make_loader` on, when the dataset is prepared.
        num_run: Number of files with any function that ran.
    """

    files: Mapping[str, frozenset[str]]
    loading: Mapping[str, frozenset[str]]
    num_run: int


class Watch(jaxdp.Hook):
    """Hook that counts from its construction until the first batch is in the train step."""

    def __init__(self):
        self._prepared, self._loading = collections.defaultdict(set), collections.defaultdict(set)
        self._run: set[str] = set()
        self._passed = self._prepared
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def on_dispatch(self, step: int, state: Any) -> None:
        """Ends the count."""
        sys.setprofile(None)
        threading.setprofile(None)
        self._passed = None

    def count(self) -> Count:
        """Returns the count."""
        prepared, loading = (
            {name: frozenset(functions) for name, functions in found.items()}
            for found in (self._prepared, self._loading)
        )
        both = {name: prepared.get(name, frozenset()) | loading.get(name, frozenset()) for name in prepared | loading}
        return Count(both, loading, len(self._run))

    def _event(self, frame: FrameType, event: str, value: Any) -> None:
        code, passed = frame.f_code, self._passed
        if passed is None or event not in ("call", "return") or not code.co_filename.startswith(f"{PACKAGE}{os.sep}"):
            return
        name = Path(code.co_filename).relative_to(PACKAGE).with_suffix("").as_posix()
        function = code.co_qualname
        if function == "<module>" or function.endswith("comp>"):
            return
        self._run.add(name)
        if function == "make_loader" and event == "call":
            self._passed = passed = self._loading
        if name in PLUMBING or function in passed[name]:
            return
        num_arguments = code.co_argcount + code.co_kwonlyargcount
        values = [frame.f_locals.get(each) for each in code.co_varnames[:num_arguments]] if event == "call" else [value]
        if any(map(is_data, values)):
            passed[name].add(function)
        if not passed[name]:
            del passed[name]


def count_files(directory: Path) -> Count:
    """Trains one step on a text file of three letters and counts.

    Args:
        directory: Empty directory for the corpus, the cache and the run.
    """
    choices = np.random.default_rng(0).integers(len(LETTERS), size=(400, 60))
    text = directory / "corpus.txt"
    text.write_text("".join("".join(LETTERS[choice] for choice in line) + "\n" for line in choices))
    config = {
        "total_steps": 1,
        "global_batch_size": 8,
        "data": {"source": "text", "path": str(text), "cache_dir": str(directory / "cache"), "length": 16},
        "model": {"num_layers": 1, "num_heads": 2, "embed_dim": 16},
        "eval": {"num_batches": 1},
        "parallel": {"cpu_devices": 8},
    }
    train, watch = jaxdp.train, Watch()  # the attribute imports its module before the count begins
    train(config, directory / "run", hooks=[watch])
    return watch.count()


def main() -> None:
    """Prints the count and the files, each with some of its functions."""
    with tempfile.TemporaryDirectory() as directory:
        found = count_files(Path(directory))
    print(
        f"\n{found.num_run} files ran; data passes {len(found.files)}, {len(found.loading)} once the dataset is prepared (*)"
    )
    for name, functions in sorted(found.files.items()):
        print(f"{'*' if name in found.loading else ' '} {name}: {', '.join(sorted(functions)[:4])}")


if __name__ == "__main__":
    main()
