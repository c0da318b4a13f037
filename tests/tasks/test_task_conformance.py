"""What every registered task must keep, whatever it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp import defaults
from jaxdp.data.tokenizers import make_tokenizer
from jaxdp.errors import UserError
from jaxdp.experiment.parts import make_task
from jaxdp.model import Transformer, model_config, parameter_shapes
from jaxdp.tasks import TaskInputs, register_task, registered_tasks
from jaxdp.tasks import task as registry

ROWS, LENGTH, VOCAB_SIZE = 4, 6, 259


@pytest.fixture(scope="module", params=sorted(registered_tasks()))
def task(request):
    return registered_tasks()[request.param](
        TaskInputs(length=LENGTH, tokenizer=make_tokenizer("byte", ["text"]))
    )


def examples(num_tokens):
    random = np.random.default_rng(0)
    tokens = random.integers(0, 256, (ROWS, LENGTH + 1), dtype=np.int32)
    return {"tokens": tokens, "num_tokens": np.asarray(num_tokens, np.int32)}


def batch_of(task, rows, seed=0, step=0):
    chosen = {name: array[rows] for name, array in examples([7, 3, 5, 0]).items()}
    return task.make_batch(chosen, seed, step, np.asarray(rows, np.int32))


@pytest.fixture(scope="module")
def loss(task):
    config = model_config(
        "nano", {"num_layers": 1, "num_heads": 2, "embed_dim": 16}, vocab_size=VOCAB_SIZE, max_length=LENGTH
    )
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.3, leaf.shape), jnp.float32), parameter_shapes(config))
    model = Transformer(config)

    def apply(params, tokens, **options):
        return model.apply({"params": params}, tokens, **options)

    return jax.jit(lambda batch: task.loss(apply, params, batch, None, train=False))


def test_batches_are_of_the_shapes_that_are_compiled_for(task):
    batch, spec = batch_of(task, [0, 1, 2, 3]), task.batch_spec(ROWS)
    assert batch.keys() == spec.keys()
    for name, leaf in spec.items():
        assert (batch[name].shape, batch[name].dtype) == (leaf.shape, leaf.dtype), name


def test_a_row_is_the_same_in_any_batch(task):
    whole, part = batch_of(task, [0, 1, 2, 3]), batch_of(task, [2, 1])
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][[2, 1]])


def test_preparing_is_deterministic(task):
    tokenizer = make_tokenizer("byte", ["text"])
    first, second = (task.prepare({"text": "some text"}, tokenizer) for _ in range(2))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_sums_add_up_over_rows_and_an_empty_row_adds_nothing(task, loss):
    whole = loss(batch_of(task, [0, 1, 2, 3]))
    parts = [loss(batch_of(task, [row])) for row in range(ROWS)]
    total = jax.tree.map(lambda *values: sum(values), *parts)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5), whole, total)
    for value in jax.tree.leaves(parts[3]):
        assert value == 0
        assert (value.shape, value.dtype) == ((), jnp.float32)


def test_the_name_of_a_task_chooses_it(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", {})
    register_task("mine", lambda inputs: ("mine", inputs.length, inputs.z_loss))
    assert set(registered_tasks()) == {"mine"}
    config = defaults.get_config()
    config.task, config.data.length, config.optim.z_loss = "mine", 33, 0.25
    assert make_task(config, None) == ("mine", 33, 0.25)
    config.task = "yours"
    with pytest.raises(UserError, match=r"task='yours' is unknown; choose one of: mine"):
        make_task(config, None)
