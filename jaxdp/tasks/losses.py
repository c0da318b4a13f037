"""Cross-entropy losses as weighted sums, and metrics derived from them."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxdp.metrics import MetricSpec
from jaxdp.tasks.task import LossSums

PERPLEXITY = MetricSpec("perplexity", "", False, "e to the mean cross-entropy of a token")
ACCURACY = MetricSpec("accuracy", "", True, "share of correct predictions")
BITS_PER_BYTE = MetricSpec("bits_per_byte", "bits/byte", False, "cross-entropy per byte of text")


def cross_entropy_sums(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Sums the cross-entropy of softmax(logits) against integer targets.

    The target's logit is selected by comparison with an iota, not by a gather: the
    gradient is then one fused elementwise expression instead of a scatter.

    Args:
        logits: [..., vocab_size] float32, with axes such as [batch, length].
        targets: [...] int32.
        weights: [...] float32; 0 ignores a position.
        label_smoothing: share `a` of the uniform distribution that is mixed with
            `1 - a` of the target (Szegedy et al. 2016, section 7).
        z_loss: weight of the added `log(Z)^2` (Chowdhery et al. 2022, section 5).

    Returns:
        (objective, nats): [] float32 sums of weight x objective and of weight x
        cross-entropy; equal if both regularisers are off.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    picked = jnp.where(vocabulary == targets[..., None], logits, 0.0)
    nats = log_z - jnp.sum(picked, axis=-1)
    objective = nats
    if label_smoothing:
        uniform = log_z - jnp.mean(logits, axis=-1)
        objective = (1.0 - label_smoothing) * nats + label_smoothing * uniform
    if z_loss:
        objective = objective + z_loss * jnp.square(log_z)
    return jnp.sum(objective * weights), jnp.sum(nats * weights)


def token_loss_sums(
    logits: jax.Array,
    batch: Mapping[str, jax.Array],
    read: jax.Array | None,
    *,
    train: bool,
    label_smoothing: float,
    z_loss: float,
) -> LossSums:
    """Sums the loss of a task that predicts tokens: the objective in training, cross-entropy and accuracy otherwise.

    Args:
        logits: [rows, positions, vocab_size] float32.
        batch: {"targets" int32, "loss_weights" float32: [rows, positions]}.
        read: [] float32, number of tokens read; None: the number of predicted tokens.
        train: whether to return the training objective.
        label_smoothing: see `cross_entropy_sums`.
        z_loss: see `cross_entropy_sums`.
    """
    targets, weights = batch["targets"], batch["loss_weights"]
    objective, nats = cross_entropy_sums(logits, targets, weights, label_smoothing=label_smoothing, z_loss=z_loss)
    weight = jnp.sum(weights)
    if train:
        return LossSums(objective, weight, {}, read)
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
    return LossSums(nats, weight, {"accuracy": (correct, weight)}, read)


def binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    positive_weights: jax.Array | float = 1.0,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Returns the elementwise cross-entropy of sigmoid(logits) against binary targets.

    Args:
        logits: [...] float32.
        targets: [...] float32, 0 or 1.
        positive_weights: weight of a target of 1 relative to 0; broadcast to the logits.
        label_smoothing: share `a`: a 1 becomes `1 - a / 2`, a 0 becomes `a / 2`.

    Returns:
        [...] float32 nats.
    """
    if label_smoothing:
        targets = (1.0 - label_smoothing) * targets + 0.5 * label_smoothing
    # log(1 + e^x) of either sign is finite for every logit.
    return positive_weights * targets * jax.nn.softplus(-logits) + (1.0 - targets) * jax.nn.softplus(logits)


def perplexity(nats: float) -> float:
    """Returns e to the mean cross-entropy in nats; finite if the loss is."""
    return math.exp(min(nats, 700.0))
