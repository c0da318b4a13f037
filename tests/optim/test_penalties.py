"""L1 and L2 penalties: their value and gradient, and that the division of rows does not matter."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from tiny_training import ROWS, TinyStep, bigram_loss, bigram_params, host, reference, uneven_batch

from jaxdp.errors import UserError
from jaxdp.optim.penalties import penalized, penalty

L1, L2 = 0.03, 0.2


def test_only_what_decays_is_penalised():
    random = np.random.default_rng(0)
    params = {
        "layers": {"kernel": random.normal(size=(2, 3, 4)), "scale": random.normal(size=(2, 3))},
        "token_embedding": random.normal(size=(5, 3)),
        "bias": random.normal(size=3),
    }
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    penalised = [params["layers"]["kernel"], params["token_embedding"]]
    expected = sum(L1 * np.abs(leaf).sum() + L2 / 2 * (leaf**2).sum() for leaf in penalised)
    np.testing.assert_allclose(penalty(params, L1, L2), expected, rtol=1e-6)
    gradient = jax.grad(penalty)(params, L1, L2)
    kernel = params["layers"]["kernel"]
    np.testing.assert_allclose(gradient["layers"]["kernel"], L1 * np.sign(kernel) + L2 * kernel, rtol=1e-6)
    assert not gradient["bias"].any() and not gradient["layers"]["scale"].any()


@pytest.mark.parametrize(("num_devices", "num_microbatches"), [(1, 1), (1, 4), (8, 1), (8, 2)])
def test_the_mean_holds_the_penalty_once(num_devices, num_microbatches):
    params, batch = bigram_params(), uneven_batch(empty_rows=ROWS // 8)
    step = TinyStep(num_devices, num_microbatches, loss=penalized(bigram_loss, L1, L2))
    state, metrics = step(step.fresh_state(), batch)
    loss, gradients = reference(params, batch)
    expected = loss + sum(L1 * np.abs(leaf).sum() + L2 / 2 * (leaf**2).sum() for leaf in params.values())
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    for name, leaf in params.items():
        gradient = gradients[name] + L1 * np.sign(leaf) + L2 * leaf
        np.testing.assert_allclose(leaf - host(state.params)[name], gradient, atol=2e-5)


def test_off_is_the_loss_itself():
    assert penalized(bigram_loss, 0.0, 0.0) is bigram_loss


@pytest.mark.parametrize(("l1", "l2", "key"), [(-1.0, 0.0, "l1"), (0.0, float("nan"), "l2")])
def test_a_penalty_below_0_is_refused(l1, l2, key):
    with pytest.raises(UserError, match=rf"optim\.{key} is .*; expected a finite number 0 or above"):
        penalized(bigram_loss, l1, l2)


def test_everything_but_the_loss_stays():
    class Sums(NamedTuple):
        loss: float
        weight: float
        metrics: dict

    sums = penalized(lambda params, rows: Sums(1.0, 4.0, {"a": 1}), 0.0, 1.0)({"w": np.full((1, 1), 2.0)}, None)
    assert (float(sums.loss), sums.weight, sums.metrics) == (1 + 4 * 2, 4.0, {"a": 1})
