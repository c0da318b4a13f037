"""Proof of an import or export: outputs of jaxdp for a fixed probe against a reference forward pass in float64."""

import gc
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdp.errors import UserError
from jaxdp.interop.reference.forward import reference_logits
from jaxdp.interop.source import ParameterSource
from jaxdp.model import Transformer, TransformerConfig
from jaxdp.trees import tree_of

NUM_ROWS, LENGTH = 2, 24
"""Size of the probe in sequences and tokens."""

TOLERANCE = 2e-5
"""Largest difference that float32 explains, relative to the largest output."""

FLOOR = 1e-2
"""Size that outputs count as if they are all smaller."""


def probe(vocab_size: int, length: int, *, is_padded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns token ids `[2, length] int32` spread over the vocabulary, and which are valid `[2, length] bool`."""
    length = min(length, LENGTH)
    tokens = (np.arange(NUM_ROWS * length) * 7919 + 11) % vocab_size
    valid = np.ones((NUM_ROWS, length), bool)
    if is_padded:
        valid[1, -(length // 3) :] = False
    return tokens.reshape(NUM_ROWS, length).astype(np.int32), valid


def our_outputs(
    config: TransformerConfig,
    parameters: Iterable[tuple[str, np.ndarray]],
    tokens: np.ndarray,
    valid: np.ndarray,
    targets: np.ndarray | None = None,
) -> np.ndarray:
    """Computes the outputs of jaxdp on one CPU device in float32.

    Mapped arrays that are aligned in their file are used where they are; of others memory holds a copy.
    """
    device = jax.devices("cpu")[0]
    params = tree_of({name: jax.device_put(array, device) for name, array in parameters})
    inputs = {} if config.architecture == "decoder" and valid.all() else {"attention_mask": valid}
    inputs |= {} if targets is None else {"target_tokens": targets}
    apply = jax.jit(lambda params, tokens, inputs: Transformer(config).apply({"params": params}, tokens, **inputs))
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        return np.asarray(apply(params, tokens, inputs))


def prove(
    config: TransformerConfig,
    parameters: Iterable[tuple[str, np.ndarray]],
    tensors: ParameterSource,
    theirs: Mapping[str, Any],
) -> str:
    """Compares the outputs of jaxdp with those of the reference.

    Args:
        config: Model in terms of jaxdp.
        parameters: Path and values of each of its parameters, which are read once.
        tensors: Tensors of the Hugging Face folder, by their names there.
        theirs: Content of its config.json.

    Returns:
        A sentence with the largest difference.

    Raises:
        UserError: The difference is larger than float32 explains.
    """
    tokens, valid = probe(config.vocab_size, config.max_length, is_padded=config.architecture != "decoder")
    targets = tokens[:, : max(tokens.shape[1] // 2, 1)][:, ::-1] if config.has_source else None
    found = our_outputs(config, parameters, tokens, valid, targets)
    gc.collect(0)  # JAX lets go of NumPy arrays that it used in place, here mappings of files, at the next collection
    expected = reference_logits(tensors, theirs, tokens, valid, targets)
    if targets is None and found.shape[:2] == valid.shape:
        found, expected = found[valid], expected[valid]
    difference = float(np.max(np.abs(found - expected))) if np.isfinite(found).all() else float("nan")
    limit = TOLERANCE * max(FLOOR, float(np.max(np.abs(expected))))
    sentence = (
        f"outputs for a probe of {valid.sum()} tokens differ by at most {difference:.2g} from the reference in float64 "
        f"(limit {limit:.2g})"
    )
    if not difference <= limit:
        raise UserError(
            f"{sentence}, so the model is not that of {tensors.path}; this is an internal error, please report it."
        )
    return sentence
