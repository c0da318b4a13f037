"""Cross-entropy losses as weighted sums, and metrics derived from them."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxdp.metrics import MetricSpec
from jaxdp.model.output_layer import OutputLayer, evaluation_sums, objective_sum
from jaxdp.tasks.task import LossSums

PERPLEXITY = MetricSpec("perplexity", "", False, "e to the mean cross-entropy of a token")
ACCURACY = MetricSpec("accuracy", "", True, "share of correct predictions")
BITS_PER_BYTE = MetricSpec("bits_per_byte", "bits/byte", False, "cross-entropy per byte of text")


def token_loss_sums(
    layer: OutputLayer,
    batch: Mapping[str, jax.Array],
    read: jax.Array | None,
    *,
    train: bool,
    label_smoothing: float,
    z_loss: float,
) -> LossSums:
    """Sums the loss of a task that predicts tokens: the objective in training, cross-entropy and accuracy otherwise.

    Args:
        layer: output layer with the hidden states of [rows, positions].
        batch: {"targets" int32, "loss_weights" float32: [rows, positions]}.
        read: [] float32, number of tokens read; None: the number of predicted tokens.
        train: whether to return the training objective.
        label_smoothing: see `cross_entropy_sums`.
        z_loss: see `cross_entropy_sums`.
    """
    targets, weights = batch["targets"], batch["loss_weights"]
    weight = jnp.sum(weights)
    if train:
        objective = objective_sum(layer, targets, weights, label_smoothing=label_smoothing, z_loss=z_loss)
        return LossSums(objective, weight, {}, read)
    nats, correct = evaluation_sums(layer, targets, weights)
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
