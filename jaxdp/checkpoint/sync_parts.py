"""Parts of a strategy's own state (`TrainState.sync`) in a checkpoint: those that a run restores, drops or initialises.

The model and the optimizer state on disk depend on no strategy, so every run restores them. A part of `sync` is
restored where all of its arrays have the expected names, shapes and dtypes, e.g. the states of as many workers.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxdp.state import TrainState
from jaxdp.trees import named_leaves

FIELD = "sync/"
"""Prefix of the paths of a strategy's own arrays."""


@dataclasses.dataclass(frozen=True)
class SyncParts:
    """Names of the parts of `sync`, the keys of its dict.

    Attributes:
        restored: Parts that are the same in the checkpoint and in the run.
        dropped: Parts of the checkpoint that do not fit the run.
        initialised: Parts of the run that the checkpoint does not have, or has in another shape.
    """

    restored: Sequence[str]
    dropped: Sequence[str]
    initialised: Sequence[str]

    def describe(self, saved_by: str, strategy: str) -> str | None:
        """Returns a sentence about what is dropped and what is initialised; None if everything is restored.

        Args:
            saved_by: `parallel.sync` of the run that saved the checkpoint.
            strategy: `parallel.sync` of this run.
        """
        if not self.dropped and not self.initialised:
            return None
        return (
            f"of the checkpoint's own state of parallel.sync={saved_by}, dropped: {_listed(self.dropped)}; of "
            f"parallel.sync={strategy}, initialised from the parameters: {_listed(self.initialised)}"
        )


def _listed(parts: Sequence[str]) -> str:
    names = [part.replace("_", " ") for part in parts]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "nothing"


def sync_parts(leaves: Iterable[Mapping[str, Any]], abstract_state: TrainState) -> SyncParts:
    """Compares the strategy's state in a checkpoint with that of a run.

    Args:
        leaves: Leaves of the manifest: path, shape and dtype.
        abstract_state: Form on disk of the run's state.
    """
    saved = _by_part((leaf["path"], leaf["shape"], leaf["dtype"]) for leaf in leaves)
    wanted = _by_part((name, leaf.shape, leaf.dtype) for name, leaf in named_leaves({"sync": abstract_state.sync}))
    restored = [part for part in wanted if saved.get(part) == wanted[part]]
    return SyncParts(
        restored,
        dropped=[part for part in saved if part not in restored],
        initialised=[part for part in wanted if part not in restored],
    )


def _by_part(leaves: Iterable[tuple[str, Sequence[int], Any]]) -> dict[str, dict[str, tuple]]:
    parts: dict[str, dict[str, tuple]] = {}
    for path, shape, dtype in leaves:
        if path.startswith(FIELD):
            parts.setdefault(path.split("/")[1], {})[path] = (tuple(shape), str(dtype))
    return parts


def without_parts(abstract_state: TrainState, parts: SyncParts) -> TrainState:
    """Returns a state whose `sync` has only the parts that are restored."""
    if not parts.initialised:
        return abstract_state
    return dataclasses.replace(abstract_state, sync={part: abstract_state.sync[part] for part in parts.restored})
