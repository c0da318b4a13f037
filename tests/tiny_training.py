"""A model small enough to differentiate by hand, and its train step on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdp.model.output_layer import OutputLayer
from jaxdp.optim import UpdateConfig
from jaxdp.parallel.control_word import control_word_spec, host_control_word
from jaxdp.parallel.devices import Topology, divide_batch
from jaxdp.parallel.fragments import Fragments
from jaxdp.parallel.layout import device_axes
from jaxdp.parallel.outer_step import OuterOptimizer
from jaxdp.parallel.placement import (
    abstract_batch,
    place_batch,
    place_per_device,
)
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.parallel.state_placement import StatePlacement
from jaxdp.parallel.strategies.local import Local
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.worker_mean import WorkerMean
from jaxdp.parallel.worker_sync import WorkerSync
from jaxdp.parallel.workers import Workers
from jaxdp.step import make_train_step
from jaxdp.tasks import CausalLM, TaskInputs
from jaxdp.training.update import make_initial_state

VOCAB_SIZE, EMBED_DIM, LENGTH, ROWS = 11, 5, 6, 32

TASK = CausalLM(TaskInputs(length=LENGTH))


def topology(num_devices):
    """The first few of the fake devices."""
    return Topology(tuple(jax.devices()[:num_devices]), num_processes=1, process_index=0)


def bigram(params, tokens, row_keys=None, method="output_layer"):
    """Output layer of a model that predicts the next token from the one before alone."""
    return OutputLayer(params["table"][tokens], params["kernel"].T)


def bigram_loss(params, rows, row_keys):
    return TASK.loss(bigram, params, rows, row_keys, train=True)


def bigram_params(seed=0):
    random = np.random.default_rng(seed)
    shapes = {"table": (VOCAB_SIZE, EMBED_DIM), "kernel": (EMBED_DIM, VOCAB_SIZE)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def batch_of(num_targets, seed=0):
    """Builds a batch of random tokens with the given number of valid targets per sequence, as `make_batch` does."""
    random = np.random.default_rng(seed)
    rows = len(num_targets)
    examples = {
        "tokens": random.integers(0, VOCAB_SIZE, (rows, LENGTH + 1), dtype=np.int32),
        "num_tokens": np.asarray(num_targets, np.int32) + 1,
    }
    row_ids = np.arange(rows, dtype=np.int32)
    return TASK.make_batch(examples, 0, 0, row_ids) | {"row_ids": row_ids}


def uneven_batch(seed=0, empty_rows=0):
    """Between none and all targets valid in a row; none at all in the first `empty_rows`."""
    num_targets = np.random.default_rng(seed + 100).integers(0, LENGTH + 1, ROWS)
    num_targets[:empty_rows] = 0
    return batch_of(num_targets, seed)


def reference(params, batch):
    """Mean loss over the valid targets and its gradient, float64, by the formula."""
    table, kernel = params["table"].astype(np.float64), params["kernel"].astype(np.float64)
    tokens, targets = batch["tokens"].reshape(-1), batch["targets"].reshape(-1)
    weights = batch["loss_weights"].reshape(-1).astype(np.float64)
    hidden = table[tokens]
    exponentials = np.exp(hidden @ kernel)
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    loss = -(weights * np.log(probabilities[np.arange(len(targets)), targets])).sum() / weights.sum()
    slope = (probabilities - np.eye(VOCAB_SIZE)[targets]) * weights[:, None] / weights.sum()
    table_gradient = np.zeros_like(table)
    np.add.at(table_gradient, tokens, slope @ kernel.T)
    return loss, {"table": table_gradient, "kernel": hidden.T @ slope}


def plain_update(**options):
    """Subtracts the gradient itself, so that it can be read off the parameters."""
    return UpdateConfig(optax.sgd(1.0), optax.constant_schedule(1.0), **options)


class TinyStep:
    """A compiled train step; call it with a state and a host batch."""

    def __init__(
        self,
        num_devices,
        num_microbatches=1,
        *,
        loss=bigram_loss,
        params=None,
        update=None,
        strategy=None,
        extra_spec=None,
        seed=0,
        **options,
    ):
        self.topology = topology(num_devices)
        shape = divide_batch(ROWS, ROWS // num_devices // num_microbatches, num_devices)
        update = update or plain_update()
        params = params or bigram_params()

        strategy = strategy or Pmean(num_devices)
        placement = StatePlacement(
            strategy, self.topology, jax.eval_shape(lambda: params), make_initial_state(update, strategy)
        )
        self.placement, self.fresh_state = placement, lambda: placement.around(params)
        rows = shape.device_batch_size
        row_spec = {"row_ids": jax.ShapeDtypeStruct((rows,), jnp.int32)}
        for name in extra_spec or ():
            row_spec[name] = jax.ShapeDtypeStruct((rows,), jnp.float32)
        self.program = compile_spmd(
            make_train_step(loss, update, strategy, shape, seed, **options),
            self.topology,
            placement.abstract,
            abstract_batch(TASK.batch_spec(rows) | row_spec, self.topology),
            abstract_batch(control_word_spec(), self.topology),
            donated=(0,),
            out_axes=(device_axes(placement.abstract), None),
        )

    def __call__(self, state, batch, request=0, batch_hash=0):
        """The next state, and the metrics on the host."""
        control_word = host_control_word(self.topology.num_local_devices, request, batch_hash)
        placed = {name: place_per_device(array, self.topology) for name, array in control_word.items()}
        state, metrics = self.program(state, place_batch(batch, self.topology), placed)
        return state, jax.device_get(metrics)


PLAIN = OuterOptimizer(1.0, 0.0)


def local(num_workers, period=1, count=1, outer=PLAIN, num_devices=8, bits=None):
    """Strategy `local` with some workers, steps between synchronisations and fragments."""
    workers = Workers(num_devices, num_workers)
    return Local(num_devices, workers, WorkerSync(Fragments(count, period), outer, WorkerMean(workers, bits=bits)))


def host(tree):
    """A copy on the host, of the shard of the first device."""
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_shards[0].data), tree)


def assert_equal_trees(actual, expected, **tolerance):
    """Same structure, and leaves equal, or close where a tolerance is given."""
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    jax.tree.map(lambda left, right: compare(left, right, **tolerance), actual, expected)
