"""Train step and evaluation step of one device, as pure functions.

The train step sums gradients over microbatches, averages them over devices in one
all-reduce, divides once by the global weight and applies the optimizer. It depends
on no task: every loss returns `LossSums`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim import clip_factor, is_spike, update_ema
from jaxdp.parallel.control_word import ControlWord, reduce_control_word
from jaxdp.parallel.devices import AXIS, BatchShape
from jaxdp.parallel.spmd import gather_rows
from jaxdp.parallel.sync import GradientSync
from jaxdp.state import TrainState
from jaxdp.tasks import LossSums
from jaxdp.typing import PyTree

SkipBy = Literal["branch", "select", "never"]

Loss = Callable[[PyTree, PyTree, jax.Array | None], LossSums]
"""loss(params, batch, row_keys) -> LossSums over the examples of the batch."""

Outputs = Callable[[PyTree, PyTree], dict[str, jax.Array]]
"""outputs(params, batch) -> arrays `[examples, ...]` by name, collected over the eval split."""


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
    """

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    spike_factor: float = 0.0
    max_skipped_in_a_row: int = 0
    skip_by: SkipBy = "select"


class UpdatedState(NamedTuple):
    """Part of the train state that an optimizer update replaces; unchanged if the update is skipped."""

    params: PyTree
    opt_state: PyTree
    ema: PyTree


def make_train_step(
    loss: Loss, update: UpdateConfig, sync: GradientSync, shape: BatchShape, seed: int
) -> Callable[[TrainState, PyTree, ControlWord], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds the train step of one device, for `parallel.spmd` to compile.

    The returned function takes the replicated state, this device's examples
    `[device_batch, ...]` and this device's control word. The batch contains
    `row_ids [device_batch] int32`, the index of each example in the global batch.
    The function returns the next state and the metrics, equal on all devices: `loss`,
    `grad_norm`, `learning_rate`, `tokens` (tokens read in the global batch, excluding
    padding), `skipped`, `skipped_in_a_row` and the reduced control word.

    Args:
        loss: Loss of a batch.
        update: Settings of the update.
        sync: Gradient synchronisation between devices.
        shape: Number of devices and microbatches, and examples per device.
        seed: Seed of dropout.
    """

    def train_step(state: TrainState, batch: PyTree, control_word: ControlWord):
        def objective(params, microbatch):
            sums = loss(params, microbatch, row_keys(seed, state.step, microbatch["row_ids"]))
            return sums.loss, (sums.weight, sums.weight if sums.tokens is None else sums.tokens)

        gradients, totals = _accumulate(objective, state.params, batch, shape.num_microbatches)
        buffers = sync.reduce(gradients, shape.num_devices)
        # Numerator and denominator are both means over devices, so the device count cancels.
        loss_sum, weight, tokens = jax.lax.pmean(totals, AXIS)
        metrics = {"loss": loss_sum / weight, "tokens": tokens * shape.num_devices}
        metrics["learning_rate"] = update.schedule(state.step - state.skipped)
        metrics["grad_norm"] = optax.tree.norm(buffers) / weight
        is_good = _is_good(update, state, metrics["loss"], metrics["grad_norm"])
        # A single factor divides the gradient sums by the weight and clips the mean.
        factor = clip_factor(metrics["grad_norm"], update.clip_norm) / weight

        def apply(old: UpdatedState) -> UpdatedState:
            sums = sync.unpack(buffers, old.params, shape.num_devices)
            gradients = jax.tree.map(lambda leaf: leaf * factor, sums)
            return _apply(update, old, gradients, metrics["loss"])

        old = UpdatedState(state.params, state.opt_state, state.ema)
        updated = _unless_skipped(update.skip_by, is_good, apply, old)
        skipped = (~is_good).astype(jnp.int32)
        state = state.replace(
            **updated._asdict(),
            step=state.step + 1,
            skipped=state.skipped + skipped,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * skipped,
        )
        metrics |= {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        return state, metrics | reduce_control_word(control_word)

    return train_step


def row_keys(seed: int, step: jax.Array | int, row_ids: jax.Array) -> jax.Array:
    """Derives one PRNG key per example, `[examples]`.

    An example has the same dropout mask on any device and in any microbatch.
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, row_ids)


def _is_good(update: UpdateConfig, state: TrainState, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """Returns whether to apply the update, `[] bool`; its inputs, and so the result, are equal on all devices."""
    is_good = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
    if update.spike_factor:
        is_good &= ~is_spike(state.opt_state, loss, update.spike_factor)
    if update.max_skipped_in_a_row:
        is_good &= state.skipped_in_a_row < update.max_skipped_in_a_row
    return is_good


def _accumulate(objective, params, batch, num_microbatches):
    """Sums gradients and [loss, weight, tokens] over the microbatches of one device."""
    gradient_of = jax.value_and_grad(objective, has_aux=True)

    def sums_of(microbatch):
        (loss_sum, (weight, tokens)), gradients = gradient_of(params, microbatch)
        return gradients, jnp.stack([loss_sum, weight, tokens])

    if num_microbatches == 1:
        return sums_of(batch)
    microbatches = jax.tree.map(lambda array: array.reshape(num_microbatches, -1, *array.shape[1:]), batch)

    def body(carry, microbatch):
        return jax.tree.map(jnp.add, carry, sums_of(microbatch)), None

    zeros = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(3, jnp.float32))
    sums, _ = jax.lax.scan(body, zeros, microbatches)
    return sums


def _apply(update: UpdateConfig, old: UpdatedState, gradients: PyTree, loss: jax.Array) -> UpdatedState:
    """Applies one optimizer update from clipped mean gradients."""
    extra = {"value": loss} if update.spike_factor else {}
    changes, opt_state = update.optimizer.update(gradients, old.opt_state, old.params, **extra)
    params = optax.apply_updates(old.params, changes)
    ema = update_ema(old.ema, params, update.ema_decay) if update.ema_decay else None
    return UpdatedState(params, opt_state, ema)


def _unless_skipped(
    skip_by: SkipBy,
    is_good: jax.Array,
    apply: Callable[[UpdatedState], UpdatedState],
    old: UpdatedState,
) -> UpdatedState:
    """Returns `apply(old)`, or `old` unchanged if the update is not good."""
    if skip_by == "never":
        return apply(old)
    if skip_by == "branch":
        return jax.lax.cond(is_good, apply, lambda untouched: untouched, old)
    return jax.tree.map(lambda new, old: jnp.where(is_good, new, old), apply(old), old)


def make_eval_step(
    loss: Loss, outputs: Outputs = lambda params, batch: {}
) -> Callable[[PyTree, PyTree, ControlWord], tuple[dict[str, tuple], dict[str, jax.Array], jax.Array]]:
    """Builds the evaluation step of one device.

    The returned function takes the parameters, this device's examples and this device's
    control word. It returns the (sum, weight) of every metric over all devices, the outputs
    `[examples of all devices, ...]`, and the largest request of any process, so that all
    processes can interrupt an evaluation after the same batch. Loss and outputs call the
    model with equal inputs, so XLA computes the forward pass once.

    Args:
        loss: Loss of a batch.
        outputs: Outputs to gather for every example; by default none.
    """

    def eval_step(params: PyTree, batch: PyTree, control_word: ControlWord):
        sums = loss(params, batch, None)
        totals = jax.lax.psum({"loss": (sums.loss, sums.weight), **sums.metrics}, AXIS)
        eval_outputs = gather_rows(outputs(params, batch))
        return totals, eval_outputs, reduce_control_word(control_word)["request"]

    return eval_step
