"""Fragments of the parameters: groups of layers that synchronise at different steps.

Layer i belongs to fragment i modulo the number of fragments, whether layers are scanned or unrolled. Parameters
outside of layers (embeddings, output layer) belong to fragment 0.

Source: Douillard et al. 2025, Streaming DiLoCo, section 2.2 (strided fragments). Differs: the parameters outside of
layers are no fragment of their own, and no step computes while a fragment travels.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxdp.trees import is_scanned, leaf_name, named_leaves
from jaxdp.typing import PyTree

LOCAL_STEPS = 50
"""Steps between synchronisations if `parallel.local_steps` is unset."""

_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?:/|$)")


@dataclasses.dataclass(frozen=True)
class Fragments:
    """Assignment of parameters to fragments, and the steps at which each synchronises.

    Attributes:
        count: Number of fragments; 1: all parameters at once.
        period: Steps from one synchronisation of a fragment to its next.
    """

    count: int
    period: int

    def due(self, step: jax.Array) -> jax.Array:
        """Returns which fragment synchronises after this number of steps, counted from 1: `[] int32`; 0: none.

        Fragments take turns at equal intervals, and fragment 0 synchronises at multiples of the period.
        """
        numbers = jnp.arange(self.count)
        return jnp.sum((step % self.period == numbers * self.period // self.count) * (numbers + 1))

    def pick(self, tree: PyTree, fragment: int) -> dict[str, jax.Array]:
        """Returns the leaves of a fragment by name; of scanned layers, its layers alone."""
        picked = {}
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = leaf_name(path)
            index = self._index(name, fragment)
            if index is not None and leaf[index].size:
                picked[name] = leaf[index]
        return picked

    def put(self, tree: PyTree, fragment: int, new: Mapping[str, jax.Array]) -> PyTree:
        """Returns a tree whose leaves of a fragment are replaced by those of `new`."""

        def replaced(path, leaf: jax.Array) -> jax.Array:
            name = leaf_name(path)
            if name not in new:
                return leaf
            index = self._index(name, fragment)
            return new[name] if index == slice(None) else leaf.at[index].set(new[name])

        return jax.tree.map_with_path(replaced, tree)

    def _index(self, name: str, fragment: int) -> slice | None:
        """Returns the index of a fragment in a leaf; None if it has nothing of the leaf."""
        if self.count == 1:
            return slice(None)
        if is_scanned(name):
            return slice(fragment, None, self.count)
        layer = _LAYER.search(name)
        return slice(None) if fragment == (int(layer[1]) % self.count if layer else 0) else None


def num_layers(shapes: PyTree) -> int:
    """Returns the number of layers of a model, of its deepest stack; 0 if it has none.

    Args:
        shapes: True shapes of the parameters.
    """
    found = [0]
    for name, leaf in named_leaves(shapes):
        layer = _LAYER.search(name)
        found += [leaf.shape[0]] * is_scanned(name) + ([int(layer[1]) + 1] if layer else [])
    return max(found)
