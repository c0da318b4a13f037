"""Orbax item with arrays: its structure from metadata, and reading of single arrays into host memory."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdp.checkpoint.orbax_settings import per_process, suppress_event_loop_errors
from jaxdp.errors import DamageFound
from jaxdp.trees import leaf_name, named_leaves
from jaxdp.typing import PyTree


class OrbaxItem:
    """Item of a checkpoint, whose structure is read once."""

    def __init__(self, directory: Path):
        self._directory: Any = directory.resolve()  # Orbax wants the path type of a package of its own
        options = per_process()
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
        self._reader = ocp.Checkpointer(handler, multiprocessing_options=options)
        self._structure: PyTree = handler.metadata(self._directory).tree
        self.leaves = {name: leaf for name, leaf in named_leaves(self._structure) if hasattr(leaf, "shape")}
        """Path -> metadata of each array, with `shape` and `dtype`."""

    def read(self, names: set[str]) -> dict[str, np.ndarray]:
        """Reads the arrays of these paths into host memory."""
        missing = names - {name for name, _ in named_leaves(self._structure)}
        if missing:
            raise DamageFound(f"{self._directory} does not hold {min(missing)}.")

        def wanted(path, leaf):
            return leaf if leaf_name(path) in names else ocp.PLACEHOLDER

        target = jax.tree.map_with_path(wanted, self._structure)
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
        with suppress_event_loop_errors():
            tree = self._reader.restore(self._directory, args=ocp.args.PyTreeRestore(item=target, restore_args=on_host))
        return {name: leaf for name, leaf in named_leaves(tree) if name in names}
