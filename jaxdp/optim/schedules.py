"""Learning rate schedules: constant, linear, cosine, rsqrt, wsd, all with linear warm-up.

Let `n` be the number of applied updates (0 at the first update), `w` = `warmup_steps`,
`t` = `total_steps`, `peak` = `learning_rate` and `end` = `end_learning_rate`. For
`n < w`, every schedule gives

    peak * (n + 1) / (w + 1)

and for `n >= w`

    constant    peak
    linear      end + (peak - end) * (1 - r)
    cosine      end + (peak - end) * (1 + cos(pi * r)) / 2
    rsqrt       peak * sqrt(max(w, 1) / max(n, 1))
    wsd         peak, then linear from peak to end over the last fifth of t

with `r = min((n - w) / (t - w), 1)`. `end` is reached at `n = t`, one past the last
update, and kept from there on. A warm-up longer than the run is not shortened: the run
ends while the learning rate still increases.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdp.arguments import shown
from jaxdp.errors import UserError
from jaxdp.optim.config import OptimizerConfig
from jaxdp.optim.registry import SCHEDULES, add_built_in

DECAY_SHARE = 0.2  # length of the decay of wsd as a fraction of total_steps


def _ramp(count: jax.Array, start: int, stop: int) -> jax.Array:
    """Returns 0 up to `start`, 1 from `stop` on, and a linear ramp in between."""
    return jnp.clip((count - start) / max(stop - start, 1), 0.0, 1.0)


def _constant(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    return jnp.full_like(count, config.learning_rate)


def _linear(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    span = config.learning_rate - config.end_learning_rate
    return config.learning_rate - span * _ramp(count, config.warmup_steps, config.total_steps)


def _cosine(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Computes the cosine decay. Source: Loshchilov and Hutter 2017, SGDR, section 3, without restarts."""
    span = config.learning_rate - config.end_learning_rate
    half_turn = jnp.pi * _ramp(count, config.warmup_steps, config.total_steps)
    return config.end_learning_rate + span * 0.5 * (1.0 + jnp.cos(half_turn))


def _rsqrt(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Computes the inverse square root decay.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 5.3.
    Differs: scaled to the peak `learning_rate`, independent of the model width.
    """
    warmup = max(config.warmup_steps, 1)
    return config.learning_rate * jnp.sqrt(warmup / jnp.maximum(count, warmup))


def _wsd(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Computes the warmup-stable-decay (WSD) schedule.

    Source: Hu et al. 2024, MiniCPM, section 4.
    Differs: linear decay over a fifth of the run instead of exponential decay over a tenth.
    """
    decay_steps = round(DECAY_SHARE * config.total_steps)
    start = max(config.total_steps - decay_steps, config.warmup_steps)
    span = config.learning_rate - config.end_learning_rate
    return config.learning_rate - span * _ramp(count, start, config.total_steps)


BUILT_IN = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "rsqrt": _rsqrt,
    "wsd": _wsd,
}
"""Schedules by name: a new built-in one is a function and a line here."""

add_built_in("schedule", SCHEDULES, BUILT_IN)


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Builds the learning rate schedule by the formulas at the top of this file.

    Warm-up and cosine decay equal those of nanoGPT's `get_lr`.

    Args:
        config: Optimizer configuration; reads schedule, learning_rate, end_learning_rate,
            warmup_steps and total_steps.

    Returns:
        Function from the number of applied updates (int or `[...] int32`) to the learning
        rate (`[...] float32`); can be jitted.
    """
    after_warmup = SCHEDULES[config.schedule]

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        warming = config.learning_rate * (count + 1) / (config.warmup_steps + 1)
        rate = after_warmup(count, config)
        if not isinstance(rate, int | float | jax.Array | np.number | np.ndarray) or jnp.shape(rate) not in (
            (),
            count.shape,
        ):
            raise UserError(
                f"optim.schedule={config.schedule} must return one learning rate for each count, found {shown(rate)}."
            )
        return jnp.where(count < config.warmup_steps, warming, rate)

    return schedule
