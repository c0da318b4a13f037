"""Parameters of a checkpoint of jaxdp, or of the one that a work directory offers, as a parameter source."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxdp.checkpoint.array_store import ArrayStore, blocks
from jaxdp.checkpoint.lookup import find_checkpoint, saved_shapes, weights_key
from jaxdp.checkpoint.manifest import STATE, Manifest, check_not_deleted, find_damage, require_manifest
from jaxdp.checkpoint.names import shards_file
from jaxdp.checkpoint.remote_copy import place_of
from jaxdp.errors import DamageFound
from jaxdp.interop.source import ArraySpec, ParameterSource
from jaxdp.safetensors_file import Entry, read_array, read_header, read_pieces
from jaxdp.workdir import WorkDir


class CheckpointSource(ParameterSource):
    """Parameters of one checkpoint, its moving average where it has one.

    Attributes:
        checkpoint: Directory of the checkpoint.
        part: Part of the train state: `ema` or `params`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, step: str = "latest", metric: str = "eval/loss", weights: str = "ema"
    ):
        """Opens a checkpoint.

        Args:
            path: Work directory, or a checkpoint.
            step: latest, best or a number; of work directories only.
            metric: Metric of the best checkpoint.
            weights: ema (where the run has it) or raw.

        Raises:
            UserError: There is no such checkpoint.
            DamageFound: The manifest is not what was written.
        """
        self.checkpoint = find_checkpoint(path, step, metric)
        self.part = weights_key(self.checkpoint, weights)
        self.path = Path(path)
        tokenizer = WorkDir(self.checkpoint.parent.parent).tokenizer
        self.tokenizer = tokenizer if tokenizer.is_file() else None

    @functools.cached_property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        shapes = saved_shapes(self.checkpoint, self.part)
        return {name: ArraySpec(dtype, shape) for name, (shape, dtype) in shapes.items()}

    def read(self, name: str) -> np.ndarray:
        """Reads an array; see `ParameterSource.read`."""
        from jaxdp.checkpoint.arrays import read_leaves  # imports jax, which `jaxdp inspect` does without

        [(_, array, _)] = read_leaves(self.checkpoint, self._manifest, {f"{self.part}/{name}": None})
        return array

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads an array in pieces; see `ParameterSource.pieces`."""
        path = f"{self.part}/{name}"
        saved = (self._manifest.pieces or {}).get(path)
        if saved is None:
            yield from self._store.pieces(path)
            return
        axis, spec = saved["axis"], self.arrays[name]
        items = sorted((start, item) for item, (start, _) in saved["ranges"].items())
        files = [shards_file(self.checkpoint, item) for _, item in items]
        entries = [self._header(file)[path] for file in files]
        if axis == 0:
            for file, entry in zip(files, entries, strict=True):
                yield from read_pieces(file, entry)
            return
        for [rows] in blocks(spec.shape[:1], (), spec.num_bytes // max(spec.shape[0], 1)):
            parts = [read_array(file, entry, rows) for file, entry in zip(files, entries, strict=True)]
            yield np.concatenate(parts, axis=axis).reshape(-1)

    def check_whole(self) -> None:
        """Compares the files with the manifest; see `ParameterSource.check_whole`."""
        if problems := find_damage(self.checkpoint):
            check_not_deleted(self.checkpoint)
            raise DamageFound("; ".join(problems) + ".")

    def read_all(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields all arrays after comparing the files with the manifest; see `ParameterSource.read_all`."""
        self.check_whole()
        from jaxdp.checkpoint.arrays import read_leaves  # imports jax, which `jaxdp inspect` does without

        prefix, manifest = f"{self.part}/", self._manifest
        for name, array, _ in read_leaves(self.checkpoint, manifest, {prefix + name: None for name in self.arrays}):
            yield name.removeprefix(prefix), array

    def identity(self) -> str:
        """Computes SHA-256 of the names, shapes and checksums of the parameters, as the manifest has them."""
        leaves = require_manifest(self.checkpoint).leaves
        own = [leaf for leaf in leaves if leaf["path"].partition("/")[0] == self.part]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """Returns the path of the checkpoint and the part that is read."""
        return f"checkpoint {place_of(self.checkpoint)} ({self.part})"

    @functools.cached_property
    def _manifest(self) -> Manifest:
        return require_manifest(self.checkpoint)

    @functools.cached_property
    def _store(self) -> ArrayStore:
        return ArrayStore(self.checkpoint / STATE)

    @functools.cached_property
    def _header(self) -> Callable[[Path], Mapping[str, Entry]]:
        return functools.cache(_undamaged_header)


def _undamaged_header(path: Path) -> Mapping[str, Entry]:
    try:
        return read_header(path)
    except (OSError, ValueError) as error:
        raise DamageFound(f"{path} is not what was written: {error}.") from error
