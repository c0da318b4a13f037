"""Parameters of a checkpoint of jaxdp, or of the one that a work directory offers, as a parameter source."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdp.checkpoint.arrays import read_leaves
from jaxdp.checkpoint.lookup import find_checkpoint, saved_shapes, weights_key
from jaxdp.checkpoint.manifest import require_manifest
from jaxdp.interop.source import ArraySpec, ParameterSource
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
        [(_, array, _)] = read_leaves(self.checkpoint, require_manifest(self.checkpoint), {f"{self.part}/{name}": None})
        return array

    def identity(self) -> str:
        """Computes SHA-256 of the names, shapes and checksums of the parameters, as the manifest has them."""
        leaves = require_manifest(self.checkpoint).leaves
        own = [leaf for leaf in leaves if leaf["path"].partition("/")[0] == self.part]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """Returns the path of the checkpoint and the part that is read."""
        return f"checkpoint {self.checkpoint} ({self.part})"

    @functools.cached_property
    def _checksums(self) -> Mapping[str, int]:
        return {leaf["path"]: leaf["checksum"] for leaf in require_manifest(self.checkpoint).leaves}

    def _checksum(self, name: str) -> int:
        """Returns the checksum in the manifest."""
        return self._checksums[f"{self.part}/{name}"]
