"""Published parameter counts, and the FLOP convention worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from tiny_models import LENGTH, VOCAB_SIZE, quick_jit, random_params, tiny_config

from jaxdp.model import (
    accounting,
    flops_per_sequence,
    flops_per_token,
    init_params,
    min_parameters,
    model_config,
    num_parameters,
    parameter_shapes,
    stack_layers,
    unstack_layers,
)
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


def bert_parameters(num_layers, embed_dim, vocab_size, max_length):
    """Devlin et al. 2019, section 3, with the head of its released code."""
    attention = 4 * (embed_dim**2 + embed_dim)
    mlp = 2 * 4 * embed_dim**2 + 4 * embed_dim + embed_dim
    layer = attention + mlp + 4 * embed_dim
    embeddings = (vocab_size + max_length + 2) * embed_dim + 2 * embed_dim
    head = embed_dim**2 + embed_dim + 2 * embed_dim + vocab_size
    return embeddings + num_layers * layer + head


@pytest.mark.parametrize(
    ("preset", "count", "published"),
    # The first two are what Hugging Face counts for BertForMaskedLM too.
    [("bert_base", 109514298, 110e6), ("bert_large", 335174458, 340e6), ("bert_mini", 11201594, 11.3e6)],
)
def test_parameters_of_bert(preset, count, published):
    config = model_config(preset, {"scan_layers": True}, vocab_size=30522, max_length=512, head="masked_lm")
    assert num_parameters(config) == count
    assert count == bert_parameters(config.num_layers, config.embed_dim, 30522, 512)
    assert abs(count / published - 1) < 0.02


@pytest.mark.parametrize(("preset", "published"), [("transformer_base", 65e6), ("transformer_big", 213e6)])
def test_parameters_of_the_original_transformer(preset, published):
    """Vaswani et al. 2017, table 3, with the 37000 tokens of section 5.1."""
    config = model_config(preset, {"scan_layers": True}, vocab_size=37000, max_length=512)
    width = config.embed_dim
    attention, mlp, norm = 4 * (width**2 + width), 8 * width**2 + 5 * width, 2 * width
    encoder, decoder = attention + mlp + 2 * norm, 2 * attention + mlp + 3 * norm
    count = num_parameters(config)
    assert count == 37000 * width + 6 * (encoder + decoder)
    assert abs(count / published - 1) < 0.03


@pytest.mark.parametrize(("preset", "count"), [("t5_small", 60506624), ("t5_base", 222903552)])
def test_parameters_of_t5(preset, count):
    """What Hugging Face counts for t5-small and t5-base."""
    config = model_config(preset, {"scan_layers": True}, vocab_size=32128, max_length=512)
    assert num_parameters(config) == count


def test_flops_of_an_encoder_decoder_by_hand():
    """Both sides by the tokens that pass through them; keys of the source once a source token."""
    shapes = {"architecture": "encoder_decoder", "num_layers": 1, "num_decoder_layers": 3, "positions": "sinusoidal"}
    config = tiny_config(**shapes, target_vocab_size=11, qk_norm=True, residual_scalars=True)
    attention, mlp, norm = 4 * 16**2 + 2 * 4, 2 * 16 * 24, 16
    of_source = 3 * (2 * 16**2 + 4)
    encoder = attention + mlp + 2 * norm + 2 + norm
    decoder = 3 * (2 * attention + mlp + 3 * norm + 2) + norm - of_source
    pairs = 8 * 8 + 3 * (5 * 5 + 5 * 8)
    expected = 6 * (encoder * 8 + of_source * 8 + decoder * 5 + 16 * 11 * 5) + 12 * 4 * 4 * pairs
    assert flops_per_sequence(config, 8, target_length=5) == expected
    assert flops_per_token(config, 8, target_length=5) == expected / 8
    with pytest.raises(ValueError, match="target_length"):
        flops_per_sequence(config, 8)


def test_flops_of_heads_by_hand():
    """A vocabulary is met by the predicted tokens, a classifier by one vector a row."""
    layers = 2 * (4 * 16**2 + 2 * 16 * 24 + 2 * 16) + 16
    attention = 12 * 2 * 4 * 4 * LENGTH * LENGTH
    masked = tiny_config(architecture="encoder", head="masked_lm")
    head = 16 * 16 + 16 + 16 * VOCAB_SIZE
    assert flops_per_sequence(masked, LENGTH, num_predicted=2) == 6 * (layers * LENGTH + head * 2) + attention
    labels = tiny_config(architecture="encoder", head="classification", num_labels=3)
    head = 16 * 16 + 16 + 16 * 3 + 3
    assert flops_per_sequence(labels, LENGTH) == 6 * (layers * LENGTH + head) + attention


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_flops_by_hand(tie_embeddings):
    config = tiny_config(tie_embeddings=tie_embeddings, num_kv_heads=2)
    layer = 16 * 16 * 2 + 16 * 8 * 2 + 2 * 16 * 24 + 2 * 16
    multiplied = 2 * layer + 16 + 16 * VOCAB_SIZE
    attention = 12 * 2 * 4 * 4 * LENGTH
    assert flops_per_token(config, LENGTH) == 6 * multiplied + attention


@pytest.mark.parametrize(("architecture", "num_keys"), [("decoder", 3), ("encoder", 5)])
def test_flops_of_a_window_by_hand(architecture, num_keys):
    """A token with 3 in its window sees itself and 2 before it, without causality also 2 after it."""
    windowed, whole = (
        flops_per_token(tiny_config(architecture=architecture, attention_window=window), LENGTH) for window in (3, 0)
    )
    assert whole - windowed == 12 * 2 * 4 * 4 * (LENGTH - num_keys)
    assert flops_per_token(tiny_config(attention_window=100), LENGTH) == flops_per_token(tiny_config(), LENGTH)


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_scanned_and_unrolled_parameters_are_made_from_each_other(architecture):
    shapes = {"architecture": architecture, "num_layers": 11, "num_decoder_layers": 2}
    params = random_params(tiny_config(**shapes))
    stacked = stack_layers(params)
    scanned = random_params(tiny_config(**shapes, scan_layers=True))
    leaves = {name: leaf.shape for name, leaf in named_leaves(scanned)}
    assert {name: leaf.shape for name, leaf in named_leaves(stacked)} == leaves
    back = unstack_layers(stacked)
    assert [name for name, _ in named_leaves(back)] == [name for name, _ in named_leaves(params)]
    for (_, one), (_, other) in zip(named_leaves(back), named_leaves(params), strict=True):
        assert jnp.array_equal(one, other)


KINDS = [
    {"positions": "relative"},
    {"architecture": "encoder", "head": "masked_lm", "num_token_types": 2, "embedding_norm": True},
    {"architecture": "encoder", "head": "classification", "num_labels": 3},
    {
        "architecture": "encoder_decoder",
        "tie_embeddings": False,
        "qk_norm": True,
        "residual_scalars": True,
        "value_embeddings": True,
    },
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.get("head") or "-".join(map(str, kind.values())))
def test_kernels_are_matrices(kind):
    """Rules about decay and orthogonalisation go by the rank of one layer's parameter."""
    for scan_layers in (False, True):
        shapes = parameter_shapes(tiny_config(scan_layers=scan_layers, use_bias=True, **kind))
        for name, leaf in named_leaves(shapes):
            is_matrix, is_scalar = name.endswith(("kernel", "embedding")), name.endswith("scalar")
            assert per_layer_rank(name, leaf) == (2 if is_matrix else 0 if is_scalar else 1), name


def test_value_embeddings_count_in_the_parameters_and_not_in_the_flops():
    """Of three layers two have a table of 8 features and a factor, which is applied to every token."""
    with_them, without = (tiny_config(value_embeddings=has, num_layers=3, num_kv_heads=2) for has in (True, False))
    assert num_parameters(with_them) - num_parameters(without) == 2 * (8 * VOCAB_SIZE + 1)
    assert min_parameters(with_them) - min_parameters(without) == 2 * 8 * VOCAB_SIZE
    assert flops_per_token(with_them, LENGTH) - flops_per_token(without, LENGTH) == 6 * 2


def test_initial_parameters_have_the_predicted_shapes():
    for kind in KINDS:
        config = tiny_config(**kind)
        params = quick_jit(functools.partial(init_params, config))(jax.random.key(0))
        assert jax.tree.map(lambda leaf: leaf.shape, params) == jax.tree.map(
            lambda leaf: leaf.shape, parameter_shapes(config)
        )


def test_shapes_are_traced_once_and_every_caller_has_its_own_tree(monkeypatch):
    config = model_config("gpt2", {}, vocab_size=32, max_length=8)
    first = parameter_shapes(config)
    expected = named_leaves(first)
    monkeypatch.setattr(accounting, "init_params", None)  # tracing again would fail
    first.clear()
    assert named_leaves(parameter_shapes(config)) == expected
