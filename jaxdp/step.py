"""The train step and the evaluation step of one device, as pure functions.

The train step adds sums over microbatches, averages them over devices in one
all-reduce, divides once by the number of valid tokens and updates. It knows no
task: whatever the loss is, it comes as `LossSums`.
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
"""loss(params, batch, row_keys) -> LossSums over the batch's rows."""

Outputs = Callable[[PyTree, PyTree], dict[str, jax.Array]]
"""outputs(params, batch) -> results of each row, `[rows, ...]`."""


@dataclasses.dataclass(frozen=True)
class Update:
    """How synchronised gradients change the state.

    Attributes:
        optimizer: the Optax chain; it sees clipped gradients.
        schedule: learning rate by number of updates applied; for the metrics.
        clip_norm: largest global norm of the gradient; 0: off.
        ema_decay: decay of the moving average of the parameters; 0: off.
        spike_factor: an update whose loss is above so many times the running mean is
            skipped like one that is not finite, and the optimizer has `track_loss`
            in it; 0: off.
        max_skipped_in_a_row: after so many nothing more is applied, so that the
            state stays the one in which they were bad; 0: never.
        skip_by: how a bad update is left out. branch: nothing is computed,
            and the state needs no second copy (5 % of a step on CPU); select: both
            sides are there and one is taken, since a branch on GPU would wait for
            the condition on the host; never: it is applied, to measure what skipping costs.
    """

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    spike_factor: float = 0.0
    max_skipped_in_a_row: int = 0
    skip_by: SkipBy = "select"


class Trained(NamedTuple):
    """What an update changes, and a skipped update does not."""

    params: PyTree
    opt_state: PyTree
    ema: PyTree


def make_train_step(
    loss: Loss, update: Update, sync: GradientSync, shape: BatchShape, seed: int
) -> Callable[[TrainState, PyTree, ControlWord], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds the function that `parallel.spmd` compiles.

    It takes the replicated state, this device's rows `[device_batch, ...]`
    (with `row_ids [device_batch] int32`, their numbers in the global batch) and
    this device's control word, and returns the next state and metrics, equal on all
    devices: `loss`, `grad_norm`, `learning_rate`, `tokens` (those read in
    the global batch, without padding), `skipped`, `skipped_in_a_row`, and the reduced control word.
    """

    def train_step(state: TrainState, batch: PyTree, control_word: ControlWord):
        def objective(params, rows):
            sums = loss(params, rows, row_keys(seed, state.step, rows["row_ids"]))
            return sums.loss, (sums.weight, sums.weight if sums.tokens is None else sums.tokens)

        gradients, totals = _accumulate(objective, state.params, batch, shape.num_microbatches)
        buffers = sync.reduce(gradients, shape.num_devices)
        # Means over devices of both numerator and denominator: the device count cancels.
        loss_sum, weight, tokens = jax.lax.pmean(totals, AXIS)
        metrics = {"loss": loss_sum / weight, "tokens": tokens * shape.num_devices}
        metrics["learning_rate"] = update.schedule(state.step - state.skipped)
        metrics["grad_norm"] = optax.tree.norm(buffers) / weight
        good = _is_good(update, state, metrics["loss"], metrics["grad_norm"])
        # One factor divides the sums by the weight and clips the mean.
        factor = clip_factor(metrics["grad_norm"], update.clip_norm) / weight

        def apply(trained: Trained) -> Trained:
            sums = sync.unpack(buffers, trained.params, shape.num_devices)
            gradients = jax.tree.map(lambda leaf: leaf * factor, sums)
            return _apply(update, trained, gradients, metrics["loss"])

        trained = Trained(state.params, state.opt_state, state.ema)
        trained = _unless_skipped(update.skip_by, good, apply, trained)
        skipped = (~good).astype(jnp.int32)
        state = state.replace(
            **trained._asdict(),
            step=state.step + 1,
            skipped=state.skipped + skipped,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * skipped,
        )
        metrics |= {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        return state, metrics | reduce_control_word(control_word)

    return train_step


def row_keys(seed: int, step: jax.Array | int, row_ids: jax.Array) -> jax.Array:
    """One key for each row, [rows]: dropout belongs to the row, on any device and in any microbatch."""
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, row_ids)


def _is_good(update: Update, state: TrainState, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
    """Whether to apply the update, [] bool; equal on all devices, as all it looks at is."""
    good = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
    if update.spike_factor:
        good &= ~is_spike(state.opt_state, loss, update.spike_factor)
    if update.max_skipped_in_a_row:
        good &= state.skipped_in_a_row < update.max_skipped_in_a_row
    return good


def _accumulate(objective, params, batch, num_microbatches):
    """Gradient sums and [loss, weight, tokens] sums over the microbatches of one device."""
    gradient_of = jax.value_and_grad(objective, has_aux=True)

    def sums_of(rows):
        (loss_sum, (weight, tokens)), gradients = gradient_of(params, rows)
        return gradients, jnp.stack([loss_sum, weight, tokens])

    if num_microbatches == 1:
        return sums_of(batch)
    microbatches = jax.tree.map(
        lambda array: array.reshape(num_microbatches, -1, *array.shape[1:]), batch
    )

    def body(carry, rows):
        return jax.tree.map(jnp.add, carry, sums_of(rows)), None

    zeros = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(3, jnp.float32))
    sums, _ = jax.lax.scan(body, zeros, microbatches)
    return sums


def _apply(update: Update, trained: Trained, gradients: PyTree, loss: jax.Array) -> Trained:
    """One optimizer update with clipped mean gradients."""
    watched = {"value": loss} if update.spike_factor else {}
    changes, opt_state = update.optimizer.update(
        gradients, trained.opt_state, trained.params, **watched
    )
    params = optax.apply_updates(trained.params, changes)
    ema = update_ema(trained.ema, params, update.ema_decay) if update.ema_decay else None
    return Trained(params, opt_state, ema)


def _unless_skipped(
    skip_by: SkipBy, good: jax.Array, apply: Callable[[Trained], Trained], trained: Trained
) -> Trained:
    """`apply(trained)`, or `trained` untouched where the update is not good."""
    if skip_by == "never":
        return apply(trained)
    if skip_by == "branch":
        return jax.lax.cond(good, apply, lambda untouched: untouched, trained)
    return jax.tree.map(
        lambda new, old: jnp.where(good, new, old), apply(trained), trained
    )


def make_eval_step(
    loss: Loss, outputs: Outputs = lambda params, batch: {}
) -> Callable[[PyTree, PyTree, ControlWord], tuple[dict[str, tuple], dict[str, jax.Array], jax.Array]]:
    """Builds the evaluation of one device's rows.

    It returns every metric's (sum, weight) over all devices, the outputs
    `[rows of all devices, ...]`, and the largest request of any process, so that all
    can leave an evaluation after the same batch. Loss and outputs ask the model the
    same, which the compiler sees: it is asked once.

    Args:
        loss: of the rows.
        outputs: what is collected of each row.
    """

    def eval_step(params: PyTree, batch: PyTree, control_word: ControlWord):
        sums = loss(params, batch, None)
        totals = jax.lax.psum({"loss": (sums.loss, sums.weight), **sums.metrics}, AXIS)
        collected = gather_rows(outputs(params, batch))
        return totals, collected, reduce_control_word(control_word)["request"]

    return eval_step
