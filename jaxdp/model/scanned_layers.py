"""Conversion of parameters between scanned layers (one array for all layers) and unrolled layers."""

import re

import jax
import jax.numpy as jnp

from jaxdp.trees import SCANNED_LAYERS
from jaxdp.typing import PyTree

STACKS = ("encoder", "decoder")
"""Subtrees of an encoder-decoder, each with layers of its own."""


def _layer_names(params: PyTree) -> list[str]:
    """Returns `layer_0`, `layer_1`, ... in numerical order."""
    names = [name for name in params if re.fullmatch(r"layer_\d+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix("layer_")))


def stack_layers(params: PyTree) -> PyTree:
    """Stacks the subtrees `layer_0`, `layer_1`, ... into one subtree `layers` with the layer as axis 0."""
    names = _layer_names(params)
    stacked = _by_stack(stack_layers, {name: leaf for name, leaf in params.items() if name not in names})
    if names:
        layers = [params[name] for name in names]
        stacked[SCANNED_LAYERS] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return stacked


def unstack_layers(params: PyTree) -> PyTree:
    """Splits the subtree `layers` into `layer_0`, `layer_1`, ...; the inverse of `stack_layers`."""
    rest = {name: leaf for name, leaf in params.items() if name != SCANNED_LAYERS}
    unstacked = _by_stack(unstack_layers, rest)
    if SCANNED_LAYERS in params:
        layers = params[SCANNED_LAYERS]
        for index in range(jax.tree.leaves(layers)[0].shape[0]):
            unstacked[f"layer_{index}"] = jax.tree.map(lambda leaf, i=index: leaf[i], layers)
    return unstacked


def _by_stack(convert, params: PyTree) -> PyTree:
    """Converts the encoder and the decoder separately and keeps all other parameters."""
    return {name: convert(leaf) if name in STACKS else leaf for name, leaf in params.items()}
