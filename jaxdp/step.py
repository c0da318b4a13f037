"""Train step and evaluation step of one device, as pure functions.

The train step sums gradients over microbatches and hands the sums to the synchronisation
strategy, which applies the optimizer. It depends on no task, since every loss returns
`LossSums`, and on no strategy.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdp.optim import UpdateConfig
from jaxdp.parallel.control_word import ControlWord, reduce_control_word
from jaxdp.parallel.devices import AXIS, BatchShape
from jaxdp.parallel.spmd import gather_rows
from jaxdp.parallel.strategies import SyncStrategy
from jaxdp.state import TrainState
from jaxdp.tasks import LossSums
from jaxdp.typing import PyTree

Loss = Callable[[PyTree, PyTree, jax.Array | None], LossSums]
"""loss(params, batch, row_keys) -> LossSums over the examples of the batch."""

Outputs = Callable[[PyTree, PyTree], dict[str, jax.Array]]
"""outputs(params, batch) -> arrays `[examples, ...]` by name, collected over the eval split."""


def make_train_step(
    loss: Loss,
    update: UpdateConfig,
    strategy: SyncStrategy,
    shape: BatchShape,
    seed: int,
    *,
    with_device_squares: bool = False,
) -> Callable[[TrainState, PyTree, ControlWord], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds the train step of one device, for `parallel.spmd` to compile.

    The returned function takes the state as this device holds it, this device's examples
    `[device_batch, ...]` and this device's control word. The batch contains
    `row_ids [device_batch] int32`, the index of each example in the global batch.
    The function returns the next state and the metrics, equal on all devices: `loss`,
    `grad_norm`, `learning_rate`, `tokens` (tokens read in the global batch, excluding
    padding), `skipped`, `skipped_in_a_row` and the reduced control word; if they are
    computed, `norms` (see `jaxdp.optim.norms`) and `device_squares`, the mean squared norm of
    the gradients of single devices.

    Args:
        loss: Loss of a batch.
        update: Settings of the update.
        strategy: Synchronisation between devices; it turns gradient sums into the next state.
        shape: Number of devices and microbatches, and examples per device.
        seed: Seed of dropout.
        with_device_squares: Whether `device_squares` is computed; only for a strategy with
            `SyncStrategy.has_device_gradients`.
    """

    def train_step(state: TrainState, batch: PyTree, control_word: ControlWord):
        def objective(params, microbatch):
            sums = loss(params, microbatch, row_keys(seed, state.step, microbatch["row_ids"]))
            return sums.loss, (sums.weight, sums.weight if sums.tokens is None else sums.tokens)

        gradients, totals = _accumulate(objective, state.params, batch, shape.num_microbatches)
        updated, metrics = strategy.update(state, gradients, totals, update)
        if with_device_squares:
            metrics |= {"device_squares": _device_squares(gradients, totals[1], strategy.num_devices)}
        if update.checks_result:
            updated, metrics = _unless_not_finite(state, updated, metrics)
        return updated, metrics | reduce_control_word(control_word)

    return train_step


def _device_squares(gradients: PyTree, weight: jax.Array, num_devices: int) -> jax.Array:
    """Returns the mean over the devices of the squared norm of their gradients, `[] float32`.

    A device's gradient is its sum divided by the mean weight of a device, so that the mean over devices is the gradient
    of the global batch.
    """
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients))
    squares, weight = jax.lax.psum(jnp.stack([squares, weight]), AXIS)
    return num_devices * squares / weight**2


def _unless_not_finite(
    old: TrainState, new: TrainState, metrics: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Keeps parameters, optimizer state and moving average of before an update whose parameters are not finite.

    The update counts as skipped. The devices agree, whichever part of the parameters each of them holds.
    """
    total = sum(jnp.sum(leaf, dtype=jnp.float32) for leaf in jax.tree.leaves(new.params))
    is_finite = jax.lax.pmin(jnp.isfinite(total).astype(jnp.int32), AXIS) > 0
    params, opt_state, ema = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old),
        (new.params, new.opt_state, new.ema),
        (old.params, old.opt_state, old.ema),
    )
    is_rejected = ~is_finite & (new.skipped == old.skipped)
    counts = {
        "skipped": new.skipped + is_rejected,
        "skipped_in_a_row": jnp.where(is_rejected, old.skipped_in_a_row + 1, new.skipped_in_a_row),
    }
    return new.replace(params=params, opt_state=opt_state, ema=ema, **counts), metrics | counts


def row_keys(seed: int, step: jax.Array | int, row_ids: jax.Array) -> jax.Array:
    """Derives one PRNG key per example, `[examples]`.

    An example has the same dropout mask on any device and in any microbatch.
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, row_ids)


def _accumulate(objective, params, batch, num_microbatches):
    """Sums gradients and [loss, weight, tokens] over the microbatches of one device."""
    gradient_of = jax.value_and_grad(objective, has_aux=True)

    def sums_of(microbatch):
        (loss_sum, (weight, tokens)), gradients = gradient_of(params, microbatch)
        return gradients, jnp.stack([loss_sum, weight, tokens])

    if num_microbatches == 1:
        return sums_of(batch)

    def body(carry, microbatch):
        return jax.tree.map(jnp.add, carry, sums_of(microbatch)), None

    zeros = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(3, jnp.float32))
    sums, _ = jax.lax.scan(body, zeros, _divided(batch, num_microbatches))
    return sums


def _divided(batch: PyTree, num_microbatches: int) -> PyTree:
    """Divides the examples `[device_batch, ...]` into `[num_microbatches, microbatch, ...]`."""
    return jax.tree.map(lambda array: array.reshape(num_microbatches, -1, *array.shape[1:]), batch)


def make_eval_step(
    loss: Loss, outputs: Outputs = lambda params, batch: {}, num_microbatches: int = 1
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
        num_microbatches: Parts of a device's examples that follow each other, so that the activations of one exist.
    """

    def eval_step(params: PyTree, batch: PyTree, control_word: ControlWord):
        def of_microbatch(microbatch: PyTree):
            sums = loss(params, microbatch, None)
            return {"loss": (sums.loss, sums.weight), **sums.metrics}, outputs(params, microbatch)

        if num_microbatches == 1:
            sums, eval_outputs = of_microbatch(batch)
        else:
            sums, eval_outputs = jax.lax.map(of_microbatch, _divided(batch, num_microbatches))
            sums = jax.tree.map(lambda parts: parts.sum(axis=0), sums)
            eval_outputs = jax.tree.map(lambda parts: parts.reshape(-1, *parts.shape[2:]), eval_outputs)
        return jax.lax.psum(sums, AXIS), gather_rows(eval_outputs), reduce_control_word(control_word)["request"]

    return eval_step
