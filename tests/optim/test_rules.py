"""Which parameters decay, and a transformation that sees one layer at a time."""

import jax
import numpy as np
import optax

from jaxdp.optim import decay_mask
from jaxdp.optim.rules import per_layer


def test_decay_mask_follows_the_rank_of_one_layer():
    layer = {"attention": {"kernel": np.ones((6, 4)), "bias": np.ones(4)}, "norm": {"scale": np.ones(6)}}
    layer_mask = {"attention": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    params = {
        "embed": {"embedding": np.ones((7, 5))},
        "layer_0": layer,
        "layers": jax.tree.map(lambda leaf: np.stack([leaf, leaf]), layer),
        "output": {"kernel": np.ones((6, 5)), "bias": np.ones(5)},
    }
    assert decay_mask(params) == {
        "embed": {"embedding": True},
        "layer_0": layer_mask,
        "layers": layer_mask,
        "output": {"kernel": True, "bias": False},
    }


def test_per_layer_takes_means_over_one_layer():
    def random(*shape):
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def clipped(block):
        return block / max(1.0, np.sqrt((block**2).mean()) / 0.5)

    def clipped_each(stack):
        return np.stack([clipped(block) for block in stack])

    single = {"embed": random(7, 5), "layer_0": {"kernel": random(6, 4), "scale": 0.1 * random(6)}}
    scanned = {
        "encoder": {"layers": {"kernel": np.float32([[[0.1]], [[1]]]) * random(2, 6, 4)}},
        "decoder": {"layers": {"kernel": random(3, 6, 4), "scale": random(3, 6)}},
    }
    expected_single = jax.tree.map(clipped, single)
    expected_scanned = jax.tree.map(clipped_each, scanned)
    transformation = per_layer(optax.clip_by_block_rms(0.5))

    @jax.jit
    def first_updates(grads):
        return transformation.update(grads, transformation.init(grads), grads)[0]

    for grads, expected in (
        (single, expected_single),
        (scanned, expected_scanned),
        (single | scanned, expected_single | expected_scanned),
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first_updates(grads), expected)
