"""cuDNN attention (flash attention) on NVIDIA GPUs, through `jax.nn.dot_product_attention`."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxdp.model.attention_backends.backend import AttentionBackend, shared_obstacle
from jaxdp.model.config import TransformerConfig
from jaxdp.model.masks import AttentionMask


def cudnn_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> jax.Array:
    """Computes scaled dot-product attention with cuDNN; arguments are those of `reference_attention`.

    Causality, and a causal window, are flags, for which cuDNN skips what is masked. Segments and padding, and a window
    together with them or without causality, become a table that cuDNN adds to the scores.

    Args:
        query: Queries, `[b, h, q, d]`.
        key: Keys, `[b, g, k, d]`.
        value: Values, `[b, g, k, d]`.
        mask: Attention mask with offset 0.
        scale: Factor of the scores; None: `1 / sqrt(d)`.
        softcap: 0; `obstacle` refuses others.
        implementation: Kernel, as in `jax.nn.dot_product_attention`.
    """
    assert not softcap, "obstacle refuses soft-capping"
    query_length, key_length = query.shape[2], key.shape[2]
    # cuDNN wants [b, q, h, d]. XLA cancels these transposes against those of `Attention`.
    query, key, value = (part.transpose(0, 2, 1, 3) for part in (query, key, value))
    is_flagged = mask.causal and not mask.has_arrays
    table = None
    if mask.has_arrays or (mask.window and not mask.causal):
        table = dataclasses.replace(mask, causal=False).table(query_length, key_length)
        assert table is not None, "segments, padding and windows have a table"
        table = jnp.broadcast_to(table, (query.shape[0], 1, query_length, key_length))
        # The gradient with a table needs even lengths.
        odd = query_length % 2, key_length % 2
        table = jnp.pad(table, ((0, 0), (0, 0), (0, odd[0]), (0, odd[1])))
        query = jnp.pad(query, ((0, 0), (0, odd[0]), (0, 0), (0, 0)))
        key, value = (jnp.pad(part, ((0, 0), (0, odd[1]), (0, 0), (0, 0))) for part in (key, value))
    outputs = jax.nn.dot_product_attention(
        query, key, value,
        mask=table,
        scale=scale,
        is_causal=mask.causal,
        local_window_size=(mask.window - 1, 0) if is_flagged and mask.window else None,
        implementation=implementation,
    )  # fmt: skip
    return outputs[:, :query_length].transpose(0, 2, 1, 3)


def obstacle(config: TransformerConfig) -> str | None:
    """Returns the reason why cuDNN attention does not support this model, or None if it does."""
    if config.dtype != "bfloat16":
        return f"it needs model.dtype = bfloat16, found {config.dtype}"
    if config.attention_logit_softcap:
        return f"it does not support model.attention_logit_softcap, found {config.attention_logit_softcap}"
    if config.head_dim % 8 or config.head_dim > 128:
        return (
            "it needs a head width (model.head_dim, unset: model.embed_dim / model.num_heads) that is a multiple of 8 and "
            f"at most 128, found {config.head_dim}"
        )
    return shared_obstacle(config)


CUDNN = AttentionBackend("cudnn", "gpu", cudnn_attention, obstacle, lambda mask: None)
