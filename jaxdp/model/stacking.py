"""Parameters of scanned and of unrolled layers, each made from the other."""

import re

import jax
import jax.numpy as jnp

from jaxdp.trees import SCANNED_LAYERS
from jaxdp.typing import PyTree

STACKS = ("encoder", "decoder")
"""Subtrees with layers of their own: the stacks of an encoder-decoder."""


def _layer_names(params: PyTree) -> list[str]:
    """`layer_0`, `layer_1`, ... in order of their number."""
    names = [name for name in params if re.fullmatch(r"layer_\d+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix("layer_")))


def stack_layers(params: PyTree) -> PyTree:
    """Turn subtrees `layer_0`, `layer_1`, ... into one `layers` with the layer as axis 0."""
    names = _layer_names(params)
    stacked = _by_stack(stack_layers, {name: leaf for name, leaf in params.items() if name not in names})
    if names:
        layers = [params[name] for name in names]
        stacked[SCANNED_LAYERS] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return stacked


def unstack_layers(params: PyTree) -> PyTree:
    """Turn the subtree `layers` into `layer_0`, `layer_1`, ...: the inverse of `stack_layers`."""
    rest = {name: leaf for name, leaf in params.items() if name != SCANNED_LAYERS}
    unstacked = _by_stack(unstack_layers, rest)
    if SCANNED_LAYERS in params:
        layers = params[SCANNED_LAYERS]
        for index in range(jax.tree.leaves(layers)[0].shape[0]):
            unstacked[f"layer_{index}"] = jax.tree.map(lambda leaf, i=index: leaf[i], layers)
    return unstacked


def _by_stack(convert, params: PyTree) -> PyTree:
    """The stacks of an encoder-decoder converted one by one, the rest as it is."""
    return {name: convert(leaf) if name in STACKS else leaf for name, leaf in params.items()}
