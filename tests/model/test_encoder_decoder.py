"""The encoder-decoder against NumPy, who can influence whom in it, and its cached decoding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import exact, reference_row
from tiers import other_rows_slow, others_slow
from tiny_models import LENGTH, jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.errors import UserError
from jaxdp.model import CHOICES, Transformer, init_cache, stack_layers

SOURCE, TARGET, WORDS = 7, LENGTH, 11
"""Tokens of a source and of a target, and words that the target may use."""

OPTIONS = {"qk_norm": True, "residual_scalars": True, "logit_softcap": 2.0, "value_embeddings": True}

POST = {"norm_position": "post", "use_bias": True}


def seq2seq_config(**overrides):
    """One layer that reads 13 words, two that write 11."""
    shapes = {"architecture": "encoder_decoder", "num_layers": 1, "num_decoder_layers": 2, "max_length": SOURCE}
    sizes = {"max_target_length": TARGET, "target_vocab_size": WORDS}
    return tiny_config(**shapes | sizes | overrides)


def random_pair(batch=2, seed=5):
    random = np.random.default_rng(seed)
    source = random_tokens(batch, SOURCE)
    return source, jnp.asarray(random.integers(0, WORDS, (batch, TARGET)), jnp.int32)


@pytest.mark.parametrize("norm_position", others_slow(CHOICES["norm_position"], "post"))  # pre: test_transformer
@pytest.mark.parametrize(
    ("positions", "options"),
    [
        ("sinusoidal", {"share_embeddings": True, "target_vocab_size": 13, "activation": "relu"}),
        ("learned", {"num_kv_heads": 2, "embedding_norm": True}),
        ("rotary", {"tie_embeddings": False, "activation": "swiglu", **OPTIONS}),
        ("relative", {"norm": "rmsnorm", "use_bias": True}),
    ],
)
def test_forward_equals_numpy(norm_position, positions, options):
    config = seq2seq_config(positions=positions, norm_position=norm_position, **options)
    params, (source, target) = random_params(config), random_pair()
    actual = jitted(config)(params, source, target_tokens=target)
    pairs = zip(np.asarray(source), np.asarray(target), strict=True)
    expected = np.stack([reference_row(exact(params), row, config, written) for row, written in pairs])
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


def influence(config, **inputs):
    """Whether the logits at each target token depend on each token of either side's embedding.

    Tokens 0, 1, 2, ... in order, so that row k of an embedding is token k alone.

    Returns:
        `[target, source]` and `[target, target] bool`.
    """
    params, model = random_params(config), Transformer(config)
    target = jnp.arange(TARGET)[None]

    def logits(embeddings):
        given = dict(zip(("token_embedding", "target_token_embedding"), embeddings, strict=True))
        return model.apply({"params": params | given}, jnp.arange(SOURCE)[None], target_tokens=target, **inputs)[0].sum(
            -1
        )

    gradients = quick_jit(jax.jacrev(logits))((params["token_embedding"], params["target_token_embedding"]))
    source, target = (np.abs(np.asarray(part)).sum(-1) > 0 for part in gradients)
    return source[:, :SOURCE], target[:, :TARGET]


@pytest.mark.parametrize("options", others_slow([{}, POST], "post", key=lambda options: "post" if options else ""))
def test_the_target_is_causal_and_sees_the_whole_source(options):
    of_source, of_target = influence(seq2seq_config(tie_embeddings=False, **options))
    assert of_source.all()
    np.testing.assert_array_equal(of_target, np.tri(TARGET, dtype=bool))


def test_padding_of_the_source_is_invisible():
    valid = np.arange(SOURCE) < 4
    of_source, _ = influence(seq2seq_config(tie_embeddings=False), attention_mask=jnp.asarray(valid)[None])
    np.testing.assert_array_equal(of_source, np.broadcast_to(valid, (TARGET, SOURCE)))


def test_packed_pairs_are_isolated():
    source, target = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 2, 2, 2])
    of_source, of_target = influence(
        seq2seq_config(tie_embeddings=False),
        segment_ids=jnp.asarray(source)[None],
        target_segment_ids=jnp.asarray(target)[None],
    )
    np.testing.assert_array_equal(of_source, target[:, None] == source[None, :])
    together = target[:, None] == target[None, :]
    np.testing.assert_array_equal(of_target, together & np.tri(TARGET, dtype=bool))


@pytest.mark.parametrize("positions", others_slow(CHOICES["positions"], "learned", "relative"))
def test_packed_pairs_equal_separate_pairs(positions):
    config = seq2seq_config(positions=positions)
    params, apply = random_params(config), jitted(config)
    source, target = random_tokens(2, 3), random_pair()[1][:, :4]
    apart = apply(params, source, target_tokens=target)
    packed = apply(
        params,
        source.reshape(1, 6),
        positions=jnp.tile(jnp.arange(3), 2)[None],
        segment_ids=jnp.arange(6)[None] // 3,
        target_tokens=target.reshape(1, 8),
        target_positions=jnp.tile(jnp.arange(4), 2)[None],
        target_segment_ids=jnp.arange(8)[None] // 4,
    )
    np.testing.assert_allclose(packed.reshape(apart.shape), apart, atol=2e-5)


@pytest.mark.slow  # the same of every task: test_task_conformance.py
def test_more_padding_changes_no_output_and_no_gradient():
    """Padding columns on both sides and padding rows, of a loss that weights them 0."""
    config = seq2seq_config(positions="relative", dropout_rate=0.0)
    model, params = Transformer(config), random_params(config)
    source, target = random_pair()
    source, target = source[:, :5], target[:, :6]

    def loss(params, source, target, valid, weights):
        logits = model.apply({"params": params}, source, attention_mask=valid, target_tokens=target)
        return (jnp.square(logits).sum(-1) * weights).sum()

    gradient = quick_jit(jax.value_and_grad(loss))
    expected = gradient(params, source, target, jnp.ones((2, 5), bool), jnp.ones((2, 6)))
    wide = [np.pad(np.asarray(part), ((0, 1), (0, 2)), constant_values=3) for part in (source, target)]
    valid, weights = np.zeros((3, 7), bool), np.zeros((3, 8), np.float32)
    valid[:2, :5], weights[:2, :6] = True, 1
    actual = gradient(params, *map(jnp.asarray, (*wide, valid, weights)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), actual, expected)


STACKS = {"dropout_rate": 0.3, "positions": "relative", "norm_position": "post"}


def loss_and_gradient(config, convert):
    """Of unrolled parameters turned into those of `config`, with dropout."""
    model, (source, target) = Transformer(config), random_pair()
    row_keys = jax.random.split(jax.random.key(3), 2)

    def loss(params):
        logits = model.apply({"params": convert(params)}, source, target_tokens=target, row_keys=row_keys)
        return jnp.square(logits).mean()

    return quick_jit(jax.value_and_grad(loss))(random_params(seq2seq_config(**STACKS)))


@pytest.fixture(scope="module")
def unrolled():
    return loss_and_gradient(seq2seq_config(**STACKS), lambda params: params)


@pytest.mark.parametrize("layers", others_slow([(True, "none"), (True, "dots"), (False, "full")], (True, "dots")))
def test_scan_and_remat_change_no_value_gradient_or_dropout_mask(unrolled, layers):
    scan_layers, remat = layers
    config = seq2seq_config(**STACKS, scan_layers=scan_layers, remat=remat)
    actual = loss_and_gradient(config, stack_layers if scan_layers else lambda params: params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, unrolled)


def test_bfloat16_is_near_float32():
    exact_config, rounded = seq2seq_config(), seq2seq_config(dtype="bfloat16")
    params, (source, target) = random_params(exact_config), random_pair()
    actual = jitted(rounded)(params, source, target_tokens=target)
    assert actual.dtype == jnp.float32
    expected = jitted(exact_config)(params, source, target_tokens=target)
    assert np.linalg.norm(actual - expected) < 0.05 * np.linalg.norm(expected)


UNROLLED_OR_SCANNED = {"unrolled": POST, "scanned": {"num_kv_heads": 2, "scan_layers": True}}


@pytest.mark.parametrize(
    ("positions", "layers"),
    other_rows_slow(
        itertools.product(CHOICES["positions"], UNROLLED_OR_SCANNED), ("relative", "unrolled"), ("rotary", "scanned")
    ),
)
def test_cached_decoding_equals_full_forward(positions, layers):
    """The source is given once, with the first piece; padding of it stays invisible."""
    config = seq2seq_config(positions=positions, **UNROLLED_OR_SCANNED[layers])
    params, (source, target) = random_params(config), random_pair()
    valid = jnp.asarray(np.arange(SOURCE)[None] < np.array([[7], [4]]))
    encoded = jitted(config, method="encode")(params, source, attention_mask=valid)
    assert encoded.shape == (2, SOURCE, 16)
    decode = jitted(config, method="decode")
    cache, logits, start = init_cache(config, 2, TARGET), [], 0
    given = {"encoder_output": encoded, "source_mask": valid}
    for length in (3, 1, 1, 1, 1, 1):
        part, cache = decode(params, target[:, start : start + length], cache=cache, **given)
        logits.append(part)
        start, given = start + length, {}
        assert cache.index == start
    assert {leaf.shape[-4:] for leaf in jax.tree.leaves(cache.cross_attention.values)} == {
        (2, config.num_kv_heads, SOURCE, 4)
    }
    expected = jitted(config)(params, source, attention_mask=valid, target_tokens=target)
    np.testing.assert_allclose(np.concatenate(logits, 1), expected, atol=2e-5)


def test_scores_at_some_positions_only():
    config = seq2seq_config()
    params, (source, target) = random_params(config), random_pair()
    places = jnp.asarray([[3, 0], [7, 7]])
    whole = jitted(config)(params, source, target_tokens=target)
    some = jitted(config)(params, source, target_tokens=target, predict_at=places)
    np.testing.assert_allclose(some, np.take_along_axis(whole, places[:, :, None], 1), atol=1e-5)


def test_inputs_that_do_not_fit_the_architecture_are_refused():
    config = seq2seq_config()
    params, (source, target), apply = random_params(config), random_pair(), jitted(config)
    with pytest.raises(ValueError, match="encoder_decoder needs target_tokens"):
        apply(params, source)
    with pytest.raises(ValueError, match="takes no cache in __call__"):
        apply(params, source, target_tokens=target, cache=init_cache(config, 2, 4))
    with pytest.raises(ValueError, match="decoder has no target_tokens"):
        jitted(tiny_config())(random_params(tiny_config()), source, target_tokens=target)
    with pytest.raises(UserError, match=r"7 positions \(data\.length\), but the sequence has 8 tokens"):
        apply(params, target, target_tokens=target)
    with pytest.raises(UserError, match=r"8 positions \(data\.target_length\).*the sequence has 9 tokens"):
        apply(params, source, target_tokens=jnp.zeros((2, 9), jnp.int32))
