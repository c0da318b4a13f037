"""Splash attention (sparse flash attention by Pallas) on TPUs.

Pallas is imported inside functions: other platforms do without it, and it takes a tenth of a second.
"""

import math

import jax
import jax.numpy as jnp

from jaxdp.model.attention_backends.backend import AttentionBackend, shared_obstacle
from jaxdp.model.attention_backends.plain import ATTENTION_OUTPUTS
from jaxdp.model.masks import PADDING_SEGMENT, AttentionMask

LANES = 128  # unit of the kernel's blocks
MAX_BLOCK = 512  # tokens


def splash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    interpret: bool = False,
) -> jax.Array:
    """Computes scaled dot-product attention with splash attention; arguments are those of `reference_attention`.

    Causality and windows are a static mask, whose empty blocks are skipped. Padding is a segment of its own. Lengths
    are padded to a multiple of `LANES`.

    Args:
        query: Queries, `[b, h, q, d]`.
        key: Keys, `[b, g, k, d]`.
        value: Values, `[b, g, k, d]`.
        mask: Attention mask with offset 0 and without a mask per query.
        scale: Factor of the scores; None: `1 / sqrt(d)`.
        softcap: Bound of the scores; 0: no bound.
        interpret: Whether to run the kernel in Python on any platform, for tests.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    query_length, head_dim = query.shape[2:]
    scaled = query.astype(jnp.float32) * (1 / math.sqrt(head_dim) if scale is None else scale)
    query = _padded(scaled.astype(query.dtype), axis=2)
    padded_key, padded_value = _padded(key, axis=2), _padded(value, axis=2)
    kernel = _kernel(
        query.shape[1], query.shape[2], padded_key.shape[2], mask.causal, mask.window, softcap, interpret
    )  # fmt: skip
    segments = mask.segments(query.shape[0], query_length, key.shape[2])
    if segments is None and not mask.causal and padded_key.shape[2] > key.shape[2]:
        segments = (jnp.zeros((query.shape[0], length), jnp.int32) for length in (query_length, key.shape[2]))
    if segments is not None:
        segments = splash.SegmentIds(*(_padded(ids, axis=1, fill=PADDING_SEGMENT) for ids in segments))
    outputs = jnp.asarray(jax.vmap(kernel)(query, padded_key, padded_value, segments))
    return outputs[:, :, :query_length]


def _padded(array: jax.Array, *, axis: int, fill: int = 0) -> jax.Array:
    """Pads an axis to a multiple of `LANES`."""
    missing = -array.shape[axis] % LANES
    if not missing:
        return array
    return jnp.pad(array, [(0, missing if index == axis else 0) for index in range(array.ndim)], constant_values=fill)


def _kernel(
    heads: int, query_length: int, key_length: int, causal: bool, window: int, softcap: float, interpret: bool
):  # fmt: skip
    """Returns the kernel for one sequence: (query, key, value, segments) -> outputs.

    Its tables belong to the trace that makes them, so it serves that trace alone.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_masks

    shape = (query_length, key_length)
    if window or causal:
        # Keys further before and after the query than these numbers of tokens are masked.
        before, after = window - 1 if window else None, 0 if causal else window - 1
        mask = splash_masks.LocalMask(shape, (before, after), offset=0)
    else:
        mask = splash_masks.FullMask(shape)
    block_q, block_kv = _block(query_length), _block(key_length)
    sizes = splash.BlockSizes(
        block_q=block_q, block_kv=block_kv, block_q_dkv=block_q, block_kv_dkv=block_kv, block_q_dq=block_q,
        block_kv_dq=block_kv,
    )  # fmt: skip
    return splash.make_splash_mha_single_device(
        splash_masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        attn_logits_soft_cap=softcap or None,
        residual_checkpoint_name=ATTENTION_OUTPUTS,
        interpret=interpret,
    )


def _block(length: int) -> int:
    """Returns the largest block that divides a length, both multiples of `LANES`."""
    return max(size for size in range(LANES, MAX_BLOCK + 1, LANES) if length % size == 0)


def mask_obstacle(mask: AttentionMask) -> str | None:
    """Returns the reason why splash attention does not support this mask, or None if it does."""
    if mask.is_per_query:
        return "it does not support an attention_mask per query"
    return None


SPLASH = AttentionBackend("splash", "tpu", splash_attention, shared_obstacle, mask_obstacle)
