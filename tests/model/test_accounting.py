"""Published parameter counts, and the FLOP convention worked out by hand."""

import jax.numpy as jnp
import pytest
from tiny_models import LENGTH, VOCAB_SIZE, random_params, tiny_config

from jaxdp.model import flops_per_token, model_config, num_parameters, stack_layers, unstack_layers
from jaxdp.trees import named_leaves, per_layer_rank


@pytest.mark.parametrize(
    ("preset", "vocab_size", "max_length", "count"),
    [
        ("gpt2", 50257, 1024, 124439808),
        ("gpt2_medium", 50257, 1024, 354823168),
        ("gpt2_large", 50257, 1024, 774030080),
        ("gpt2_xl", 50257, 1024, 1557611200),
        ("llama3_1b", 128256, 8192, 1235814400),
    ],
)
def test_published_parameter_counts(preset, vocab_size, max_length, count):
    config = model_config(preset, {"scan_layers": True}, vocab_size=vocab_size, max_length=max_length)
    assert num_parameters(config) == count


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_flops_by_hand(tie_embeddings):
    config = tiny_config(tie_embeddings=tie_embeddings, num_kv_heads=2)
    layer = 16 * 16 * 2 + 16 * 8 * 2 + 2 * 16 * 24 + 2 * 16
    multiplied = 2 * layer + 16 + 16 * VOCAB_SIZE
    attention = 12 * 2 * 4 * 4 * LENGTH
    assert flops_per_token(config, LENGTH) == 6 * multiplied + attention


def test_scanned_and_unrolled_parameters_are_made_from_each_other():
    config = tiny_config(num_layers=11)
    params = random_params(config)
    stacked = stack_layers(params)
    scanned = random_params(tiny_config(num_layers=11, scan_layers=True))
    shapes = {name: leaf.shape for name, leaf in named_leaves(scanned)}
    assert {name: leaf.shape for name, leaf in named_leaves(stacked)} == shapes
    back = unstack_layers(stacked)
    assert [name for name, _ in named_leaves(back)] == [name for name, _ in named_leaves(params)]
    for (_, one), (_, other) in zip(named_leaves(back), named_leaves(params), strict=True):
        assert jnp.array_equal(one, other)


def test_kernels_are_matrices():
    for scan_layers in (False, True):
        for name, leaf in named_leaves(random_params(tiny_config(scan_layers=scan_layers, use_bias=True))):
            assert per_layer_rank(name, leaf) == (2 if name.endswith(("kernel", "embedding")) else 1)
