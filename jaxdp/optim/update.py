"""Optimizer update: from clipped mean gradients to new parameters, unless the update is skipped."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim.norms import no_sums, sums_of_squares
from jaxdp.optim.optimizers import update_ema
from jaxdp.optim.spikes import is_spike
from jaxdp.typing import PyTree

SkipBy = Literal["branch", "select", "never"]


@dataclasses.dataclass(frozen=True)
class UpdateConfig:
    """Settings of the update: from synchronised gradients to the next state.

    Attributes:
        optimizer: Optax optimizer, which receives clipped gradients. It contains
            `track_loss` if `spike_factor` is set.
        schedule: Learning rate as a function of the number of applied updates; used for
            the metrics only.
        clip_norm: Maximum global norm of the gradient; 0: off.
        ema_decay: Decay of the moving average of the parameters; 0: off.
        spike_factor: Loss spike threshold as a multiple of the running mean loss. An update
            above it is skipped, like one that is not finite; 0: off.
        max_skipped_in_a_row: Number of consecutive skipped updates after which every further
            update is skipped too, so that diagnosis sees the state that caused them; 0: no limit.
        skip_by: Implementation of skipping. "branch" computes nothing for a skipped update
            and needs no second copy of the state (saves 5 % of a step on CPU). "select"
            computes the update and selects old or new values, because on GPU a branch
            waits for the host to read its condition. "never" applies every update, to
            measure the cost of skipping.
        checks_result: Whether an update whose parameters are not finite is skipped too, although its gradient is
            finite; for optimizers of a user.
        norms_every_steps: Steps between those with the metric `norms`; 0: it is not computed.
        last_step: Number of the last step, which has it too.
    """

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    spike_factor: float = 0.0
    max_skipped_in_a_row: int = 0
    skip_by: SkipBy = "select"
    checks_result: bool = False
    norms_every_steps: int = 0
    last_step: int = 0

    def no_norms(self, params: PyTree) -> jax.Array | None:
        """Returns `Updated.norms` of a step without an update; None if they are not computed."""
        return no_sums(params) if self.norms_every_steps else None

    def needs_norms(self, step: jax.Array) -> jax.Array:
        """Returns whether the step after `step` others has norms, `[] bool`."""
        return ((step + 1) % self.norms_every_steps == 0) | (step + 1 == self.last_step)


class Updated(NamedTuple):
    """Part of the train state that an optimizer update replaces; unchanged if the update is skipped.

    Attributes:
        params: Parameters.
        opt_state: State of the optimizer.
        ema: Moving average of the parameters.
        norms: Sums of squares as of `jaxdp.optim.norms.sums_of_squares`, no part of the state; None: not computed.
    """

    params: PyTree
    opt_state: PyTree
    ema: PyTree
    norms: jax.Array | None = None


def is_good(
    update: UpdateConfig, opt_state: PyTree, skipped_in_a_row: jax.Array, loss: jax.Array, grad_norm: jax.Array
) -> jax.Array:
    """Returns whether to apply the update, `[] bool`; its inputs, and so the result, are equal on all devices."""
    good = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
    if update.spike_factor:
        good &= ~is_spike(opt_state, loss, update.spike_factor)
    if update.max_skipped_in_a_row:
        good &= skipped_in_a_row < update.max_skipped_in_a_row
    return good


def apply_update(update: UpdateConfig, old: Updated, gradients: PyTree, loss: jax.Array) -> Updated:
    """Applies one optimizer update from clipped mean gradients, and computes its norms unless `old.norms` is None."""
    extra = {"value": loss} if update.spike_factor else {}
    changes, opt_state = update.optimizer.update(gradients, old.opt_state, old.params, **extra)
    params = optax.apply_updates(old.params, changes)
    ema = update_ema(old.ema, params, update.ema_decay) if update.ema_decay else None
    norms = None if old.norms is None else sums_of_squares(old.params, gradients, changes)
    return Updated(params, opt_state, ema, norms)


def unless_skipped(
    update: UpdateConfig, step: jax.Array, good: jax.Array, apply: Callable[[Updated], Updated], old: Updated
) -> Updated:
    """Returns `apply(old)`, or `old` unchanged if the update is not good.

    With `skip_by="branch"`, norms are computed only at the steps that need them, by a second calculation of the update.

    Args:
        update: Settings of the update.
        step: Number of steps before this one, `[] int32`.
        good: Whether to apply the update, `[] bool`.
        apply: Function old -> updated.
        old: Values before the update.
    """
    if update.skip_by == "never":
        return apply(old)
    if update.skip_by != "branch":
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), apply(old), old)
    if old.norms is None:
        return jax.lax.cond(good, apply, lambda untouched: untouched, old)
    # A conditional of its own: one that also returned the state would copy it at every step.
    norms = jax.lax.cond(good & update.needs_norms(step), lambda old: apply(old).norms, lambda old: old.norms, old)
    # Always true, since sums of squares are not negative: the update waits for the norms, so it is still done in place.
    good &= ~(norms[0, 0] < 0)
    updated = jax.lax.cond(good, apply, lambda untouched: untouched, old._replace(norms=None))
    return updated._replace(norms=norms)
