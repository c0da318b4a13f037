"""Cross-entropy of logits against integer targets as weighted sums, with label smoothing and z-loss."""

import jax
import jax.numpy as jnp


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
