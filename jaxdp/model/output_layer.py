"""Output layer of a language model: logits, and cross-entropy in chunks of tokens with its gradient in the forward pass."""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.model.cross_entropy import cross_entropy_sums
from jaxdp.model.layers import bounded
from jaxdp.model.products import matmul_float32

MIN_AUTO_TOKENS = 1024
"""Tokens of an automatic chunk, at least.

Each chunk reads and writes the gradient of the embedding in float32, `8 * vocab_size * embed_dim` bytes, for
`2 * tokens * vocab_size * embed_dim` FLOPs of the product that is added to it. Below `4 * FLOP/s / (bytes/s)` tokens, about 1,000
on a TPU v5e and on an H100, memory bandwidth limits that product.
"""

MIN_AUTO_BYTES = 256 * 2**20
"""Float32 logits of an automatic chunk, at least: fewer chunks of small vocabularies."""

VOCAB_MULTIPLES = {"gpu": 128}
"""Platform -> multiple to which chunks pad the vocabulary; others: 1.

Tensor cores need aligned rows: XLA would pad the operands and cut the result of every product of every chunk. A TPU pads
inside its memory tiles anyway, and cutting the gradient of the embedding would cost a copy of it.
"""


@flax.struct.dataclass
class OutputLayer:
    """Final hidden states, and the parameters that map them to logits.

    Attributes:
        hidden: Hidden states of the predicted tokens, `[batch, length, embed_dim]` in the compute dtype.
        table: Output embedding, `[vocab_size, embed_dim] float32`.
        bias: Bias of the logits, `[vocab_size] float32`, or None.
        chunk: Value of `TransformerConfig.loss_chunk`.
        platform: Platform of the devices.
        softcap: Bound of the logits; 0: no bound.
    """

    hidden: jax.Array
    table: jax.Array
    bias: jax.Array | None = None
    chunk: int | None = flax.struct.field(pytree_node=False, default=None)
    platform: str = flax.struct.field(pytree_node=False, default="cpu")
    softcap: float = flax.struct.field(pytree_node=False, default=0.0)

    def logits(self) -> jax.Array:
        """Computes logits over the vocabulary, `[batch, length, vocab_size] float32`."""
        flat = self.hidden.reshape(-1, self.hidden.shape[-1])
        logits = _complete(
            matmul_float32(flat, self.table.astype(self.hidden.dtype), self.platform), self.bias, self.softcap
        )
        return logits.reshape(*self.hidden.shape[:-1], self.table.shape[0])

    @property
    def num_chunks(self) -> int:
        """Number of chunks of a loss over all tokens; 1: all logits at once."""
        return num_chunks(self.hidden.size // self.hidden.shape[-1], self.table.shape[0], self.chunk)


def num_chunks(num_tokens: int, vocab_size: int, chunk: int | None) -> int:
    """Returns the number of chunks of a loss.

    Args:
        num_tokens: Number of predicted tokens.
        vocab_size: Number of logits of each.
        chunk: Maximum number of tokens of a chunk; None: chosen by the vocabulary; 0: no limit.
    """
    longest = max(MIN_AUTO_BYTES // (4 * vocab_size), MIN_AUTO_TOKENS) if chunk is None else chunk
    if not longest or num_tokens <= longest:
        return 1
    smallest = -(-num_tokens // longest)
    # Chunks of equal size need no padding.
    return next((count for count in range(smallest, 2 * smallest) if num_tokens % count == 0), smallest)


class _Settings(NamedTuple):
    """Static arguments of the chunked objective."""

    num_chunks: int
    vocab_size: int
    platform: str
    softcap: float
    label_smoothing: float
    z_loss: float


def objective_sum(
    layer: OutputLayer, targets: jax.Array, weights: jax.Array, *, label_smoothing: float, z_loss: float
) -> jax.Array:
    """Sums the training objective of `cross_entropy_sums` over the predicted tokens, `[] float32`.

    A chunk computes its logits, loss and gradients together. No logits are kept or computed again for the backward pass,
    which only multiplies the gradients by the cotangent of the sum.

    Args:
        layer: Output layer.
        targets: Target tokens, `[batch, length] int32`.
        weights: Weight of each token, `[batch, length] float32`.
        label_smoothing: See `cross_entropy_sums`.
        z_loss: See `cross_entropy_sums`.
    """
    settings = _Settings(layer.num_chunks, layer.table.shape[0], layer.platform, layer.softcap, label_smoothing, z_loss)
    if settings.num_chunks == 1:
        return _objective(settings, layer.logits(), targets, weights)
    hidden = layer.hidden.reshape(-1, layer.hidden.shape[-1])
    return _chunked_objective(settings, hidden, layer.table, layer.bias, targets.reshape(-1), weights.reshape(-1))


def evaluation_sums(layer: OutputLayer, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums cross-entropy and correct predictions, each times its weight, over the predicted tokens.

    Args:
        layer: Output layer.
        targets: Target tokens, `[batch, length] int32`.
        weights: Weight of each token, `[batch, length] float32`.

    Returns:
        (nats, correct): `[] float32`.
    """
    if layer.num_chunks == 1:
        return _evaluation(layer.logits(), targets, weights)
    hidden = layer.hidden.reshape(-1, layer.hidden.shape[-1])
    kernel = _padded_kernel(layer.table, hidden.dtype, layer.platform)

    def add_chunk(sums, chunk):
        hidden, targets, weights = chunk
        logits = _complete(
            matmul_float32(hidden, kernel, layer.platform)[:, : len(layer.table)], layer.bias, layer.softcap
        )
        return jax.tree.map(jnp.add, sums, _evaluation(logits, targets, weights)), None

    zero = jnp.zeros((), jnp.float32)
    chunks = _divided(layer.num_chunks, hidden, targets.reshape(-1), weights.reshape(-1))
    return jax.lax.scan(add_chunk, (zero, zero), chunks)[0]


def _objective(settings: _Settings, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    regularisers = {"label_smoothing": settings.label_smoothing, "z_loss": settings.z_loss}
    return cross_entropy_sums(logits, targets, weights, **regularisers)[0]


def _evaluation(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    nats = cross_entropy_sums(logits, targets, weights)[1]
    return nats, jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)


def _complete(products: jax.Array, bias: jax.Array | None, softcap: float) -> jax.Array:
    """Returns the logits from the products of hidden states and output embedding."""
    return bounded(products if bias is None else products + bias[None, :], softcap)


def _padded_kernel(table: jax.Array, dtype: jnp.dtype, platform: str) -> jax.Array:
    """Returns the output embedding in the compute dtype, padded with rows of zeros as the platform prefers."""
    return jnp.pad(table.astype(dtype), ((0, -len(table) % VOCAB_MULTIPLES.get(platform, 1)), (0, 0)))


def _divided(num_chunks: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Divides arrays `[tokens, ...]` into `[num_chunks, chunk, ...]`; added tokens are zeros, without weight."""

    def divide(array: jax.Array) -> jax.Array:
        size = -(-len(array) // num_chunks)
        padding = ((0, num_chunks * size - len(array)), *((0, 0) for _ in array.shape[1:]))
        return jnp.pad(array, padding).reshape(num_chunks, size, *array.shape[1:])

    return tuple(map(divide, arrays))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_objective(settings: _Settings, hidden, table, bias, targets, weights):
    """Sums the objective over `hidden` `[tokens, embed_dim]`, without gradients."""
    kernel = _padded_kernel(table, hidden.dtype, settings.platform)

    def add_chunk(total, chunk):
        hidden, targets, weights = chunk
        logits = _complete(
            matmul_float32(hidden, kernel, settings.platform)[:, : settings.vocab_size], bias, settings.softcap
        )
        return total + _objective(settings, logits, targets, weights), None

    chunks = _divided(settings.num_chunks, hidden, targets, weights)
    return jax.lax.scan(add_chunk, jnp.zeros((), jnp.float32), chunks)[0]


def _chunked_forward(settings: _Settings, hidden, table, bias, targets, weights):
    """Sums the objective, and computes its gradients with respect to hidden states, table, bias and weights."""
    kernel = _padded_kernel(table, hidden.dtype, settings.platform)

    def add_chunk(sums, chunk):
        hidden, targets, weights = chunk

        def of_products(products, bias, weights):
            logits = _complete(products[:, : settings.vocab_size], bias, settings.softcap)
            return _objective(settings, logits, targets, weights)

        loss, (d_products, d_bias, d_weights) = jax.value_and_grad(of_products, (0, 1, 2))(
            matmul_float32(hidden, kernel, settings.platform), bias, weights
        )
        d_products = d_products.astype(hidden.dtype)  # as in the backward pass of `matmul_float32`
        d_hidden = d_products @ kernel
        d_kernel = jnp.einsum("mn,mk->nk", d_products, hidden, preferred_element_type=jnp.float32)
        return jax.tree.map(jnp.add, sums, (loss, d_kernel, d_bias)), (d_hidden, d_weights)

    zeros = (jnp.zeros((), jnp.float32), jnp.zeros(kernel.shape, jnp.float32), jax.tree.map(jnp.zeros_like, bias))
    chunks = _divided(settings.num_chunks, hidden, targets, weights)
    (loss, d_kernel, d_bias), (d_hidden, d_weights) = jax.lax.scan(add_chunk, zeros, chunks)
    d_hidden = d_hidden.reshape(-1, hidden.shape[-1])[: len(hidden)]
    return loss, (d_hidden, d_kernel[: settings.vocab_size], d_bias, d_weights.reshape(-1)[: len(weights)])


def _chunked_backward(settings: _Settings, gradients, cotangent):
    """Multiplies the gradients by the cotangent of the sum; targets have none."""
    d_hidden, d_table, d_bias, d_weights = jax.tree.map(
        lambda gradient: (gradient * cotangent).astype(gradient.dtype), gradients
    )
    return d_hidden, d_table, d_bias, None, d_weights


_chunked_objective.defvjp(_chunked_forward, _chunked_backward)
