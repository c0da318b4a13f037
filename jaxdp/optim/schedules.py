"""Learning rate as a function of the number of updates already applied.

Let `n` be that number (0 at the first update), `w` = `warmup_steps`, `t` =
`total_steps`, `peak` = `learning_rate` and `end` = `end_learning_rate`. While
`n < w`, every schedule gives

    peak * (n + 1) / (w + 1)

and from `n = w` on

    constant    peak
    linear      end + (peak - end) * (1 - r)
    cosine      end + (peak - end) * (1 + cos(pi * r)) / 2
    rsqrt       peak * sqrt(max(w, 1) / max(n, 1))
    wsd         peak, and over the last fifth of t linear from peak to end

with `r = min((n - w) / (t - w), 1)`, so `end` is reached at `n = t`, one past
the last update, and holds after it. A warm-up longer than the run is not
shortened: the run ends while the rate still rises.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim.config import OptimizerConfig, ScheduleName

DECAY_SHARE = 0.2  # of total_steps, at the end of a wsd run


def _ramp(count: jax.Array, start: int, stop: int) -> jax.Array:
    """0 up to `start`, 1 from `stop` on, linear between."""
    return jnp.clip((count - start) / max(stop - start, 1), 0.0, 1.0)


def _constant(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    return jnp.full_like(count, config.learning_rate)


def _linear(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    span = config.learning_rate - config.end_learning_rate
    return config.learning_rate - span * _ramp(count, config.warmup_steps, config.total_steps)


def _cosine(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Source: Loshchilov and Hutter 2017, SGDR, section 3, without restarts."""
    span = config.learning_rate - config.end_learning_rate
    half_turn = jnp.pi * _ramp(count, config.warmup_steps, config.total_steps)
    return config.end_learning_rate + span * 0.5 * (1.0 + jnp.cos(half_turn))


def _rsqrt(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Source: Vaswani et al. 2017, Attention Is All You Need, section 5.3.

    Departs: scaled so that the peak is `learning_rate`, whatever the width.
    """
    warmup = max(config.warmup_steps, 1)
    return config.learning_rate * jnp.sqrt(warmup / jnp.maximum(count, warmup))


def _wsd(count: jax.Array, config: OptimizerConfig) -> jax.Array:
    """Warm-up, stable, decay.

    Source: Hu et al. 2024, MiniCPM, section 4.
    Departs: the decay is linear and takes a fifth of the run, not exponential over a tenth.
    """
    decay_steps = round(DECAY_SHARE * config.total_steps)
    start = max(config.total_steps - decay_steps, config.warmup_steps)
    span = config.learning_rate - config.end_learning_rate
    return config.learning_rate - span * _ramp(count, start, config.total_steps)


SCHEDULES: dict[ScheduleName, Callable[[jax.Array, OptimizerConfig], jax.Array]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "rsqrt": _rsqrt,
    "wsd": _wsd,
}


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """The learning rate of `config`, by the formulas at the top of this file.

    Args:
        config: reads schedule, learning_rate, end_learning_rate, warmup_steps, total_steps.

    Returns:
        `schedule(count) -> learning rate`: count of applied updates, int or
        `[...] int32`; the rate `[...] float32`. It can be jitted. Warm-up and
        cosine are those of nanoGPT's `get_lr`.
    """
    after_warmup = SCHEDULES[config.schedule]

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        warming = config.learning_rate * (count + 1) / (config.warmup_steps + 1)
        return jnp.where(count < config.warmup_steps, warming, after_warmup(count, config))

    return schedule
