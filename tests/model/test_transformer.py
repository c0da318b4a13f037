"""The forward pass against NumPy, and who can influence whom."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import exact, reference_row
from tiers import other_rows_slow, others_slow
from tiny_models import LENGTH, jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.errors import UserError
from jaxdp.model import CHOICES, Transformer, init_cache, parameter_shapes, stack_layers

COMBINATIONS = list(
    itertools.product(
        ("layernorm", "rmsnorm"),
        ("gelu", "gelu_tanh", "relu", "relu2", "swiglu"),
        ("learned", "sinusoidal", "rotary", "relative"),
    )
)

LATIN = [COMBINATIONS[index] for index in (0, 7, 10, 13, 14, 16, 22, 25, 28, 35, 38)]
"""Each norm with each activation and with each kind of positions, and each value of the options that take turns below."""


@pytest.mark.parametrize("combination", others_slow(COMBINATIONS, *LATIN), ids="-".join)
def test_forward_equals_numpy(combination):
    # The binary choices take turns, so that each meets both values of the others.
    norm, activation, positions = combination
    bits = COMBINATIONS.index(combination)
    config = tiny_config(
        norm=norm,
        activation=activation,
        positions=positions,
        use_bias=bool(bits & 1),
        tie_embeddings=bool(bits & 2),
        norm_position="post" if bits & 4 else "pre",
        norm_epsilon=1e-5 if bits & 16 else 1e-2,
        embedding_norm=bits % 3 == 0,
        num_kv_heads=(4, 2, 1)[bits % 3 if bits & 8 else 0],
        attention_window=3 if bits % 4 == 1 else 0,
        attention_logit_softcap=1.5 if bits % 3 == 1 else 0.0,
        qk_norm=bits % 7 < 3,
        residual_scalars=bits % 7 % 2 == 1,
        value_embeddings=bits % 5 < 2,
        logit_softcap=0.0 if bits % 6 else 2.0,
        architecture="decoder" if bits % 5 else "encoder",
    )
    params, tokens = random_params(config), random_tokens()
    actual = jitted(config)(params, tokens)
    expected = np.stack([reference_row(exact(params), row, config) for row in np.asarray(tokens)])
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


def influence(config, **inputs):
    """Whether the logits at each query depend on each token's embedding, `[query, key] bool`.

    Tokens 0 .. LENGTH - 1 in order, so that row k of the embedding is token k alone;
    the output layer is untied, so that the embedding is an input and nothing else.
    """
    params, tokens = random_params(config), jnp.arange(LENGTH)[None]
    model = Transformer(config)

    def logits(embedding):
        return model.apply({"params": params | {"token_embedding": embedding}}, tokens, **inputs)[0].sum(-1)

    gradients = quick_jit(jax.jacrev(logits))(params["token_embedding"])
    return np.abs(np.asarray(gradients[:, :LENGTH])).sum(-1) > 0


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_token_depends_on_itself_and_earlier_tokens_only(norm_position):
    """An exactly zero derivative for every later token is a proof; for random weights a
    nonzero one for every earlier token shows that nothing is hidden that should be seen."""
    config = tiny_config(tie_embeddings=False, norm_position=norm_position)
    np.testing.assert_array_equal(influence(config), np.tri(LENGTH, dtype=bool))


def test_a_bidirectional_token_depends_on_every_token():
    assert influence(tiny_config(tie_embeddings=False, architecture="encoder")).all()


@pytest.mark.parametrize("causal", [True, False])
def test_segments_are_isolated(causal):
    segments = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    config = tiny_config(tie_embeddings=False, architecture="decoder" if causal else "encoder")
    actual = influence(config, segment_ids=jnp.asarray(segments)[None])
    together = segments[:, None] == segments[None, :]
    np.testing.assert_array_equal(actual, together & np.tri(LENGTH, dtype=bool) if causal else together)


def test_masked_keys_have_no_influence():
    attend = np.array([0, 0, 1, 1, 1, 0, 1, 1], bool)
    config = tiny_config(tie_embeddings=False, positions="rotary")
    actual = influence(config, attention_mask=jnp.asarray(attend)[None])
    expected = np.tri(LENGTH, dtype=bool) & attend
    np.testing.assert_array_equal(actual[attend], (expected | np.eye(LENGTH, dtype=bool))[attend])


@pytest.mark.parametrize("positions", CHOICES["positions"])
def test_left_padding_changes_nothing(positions):
    config = tiny_config(positions=positions)
    params, tokens = random_params(config), random_tokens(length=5)
    apply = jitted(config)
    padded = jnp.concatenate([jnp.zeros((2, 3), jnp.int32), tokens], axis=1)
    attend = jnp.broadcast_to(jnp.arange(LENGTH)[None] >= 3, (2, LENGTH))
    places = jnp.broadcast_to(jnp.maximum(jnp.arange(LENGTH) - 3, 0)[None], (2, LENGTH))
    actual = apply(params, padded, attention_mask=attend, positions=places)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual[:, 3:], apply(params, tokens), atol=2e-5)


def test_packed_rows_equal_separate_rows():
    config = tiny_config(positions="learned")
    params, tokens = random_params(config), random_tokens(length=4)
    apply = jitted(config)
    places = jnp.tile(jnp.arange(4), 2)[None]
    packed = apply(params, tokens.reshape(1, 8), positions=places, segment_ids=jnp.arange(8)[None] // 4)
    np.testing.assert_allclose(packed.reshape(2, 4, -1), apply(params, tokens), atol=2e-5)


def test_bfloat16_is_near_float32_and_returns_float32():
    exact, rounded = tiny_config(), tiny_config(dtype="bfloat16")
    params, tokens = random_params(exact), random_tokens()

    def loss(params, config):
        logits = Transformer(config).apply({"params": params}, tokens)
        assert logits.dtype == jnp.float32
        return jnp.square(logits).mean()

    gradient = quick_jit(jax.value_and_grad(loss), static_argnums=1)
    (expected, expected_grad), (actual, actual_grad) = gradient(params, exact), gradient(params, rounded)
    np.testing.assert_allclose(actual, expected, rtol=0.05)
    for one, other in zip(jax.tree.leaves(actual_grad), jax.tree.leaves(expected_grad), strict=True):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(other)


STACK = {
    "dropout_rate": 0.3, "positions": "rotary", "num_kv_heads": 2, "qk_norm": True, "residual_scalars": True,
    "value_embeddings": True,
}  # fmt: skip


def loss_and_gradient(config, convert):
    """Of unrolled parameters turned into those of `config`, with dropout."""
    model, tokens = Transformer(config), random_tokens()
    row_keys = jax.random.split(jax.random.key(3), 2)

    def loss(params):
        return jnp.square(model.apply({"params": convert(params)}, tokens, row_keys=row_keys)).mean()

    return quick_jit(jax.value_and_grad(loss))(random_params(tiny_config(**STACK)))


@pytest.fixture(scope="module")
def unrolled():
    return loss_and_gradient(tiny_config(**STACK), lambda params: params)


@pytest.fixture(scope="module")
def scanned():
    return loss_and_gradient(tiny_config(**STACK, scan_layers=True), stack_layers)


def test_scanned_layers_change_no_value_gradient_or_dropout_mask(unrolled, scanned):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), scanned, unrolled)


@pytest.mark.parametrize(
    ("remat", "scan_layers"),
    other_rows_slow(
        itertools.product([name for name in CHOICES["remat"] if name != "none"], [True, False]),
        ("dots_attention", True),
        ("full", False),
    ),
)
def test_remat_changes_no_bit_of_the_loss_and_no_gradient_or_dropout_mask(unrolled, scanned, scan_layers, remat):
    config = tiny_config(**STACK, scan_layers=scan_layers, remat=remat)
    loss, gradient = loss_and_gradient(config, stack_layers if scan_layers else lambda params: params)
    expected, expected_gradient = scanned if scan_layers else unrolled
    assert loss == expected
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected_gradient)


def test_remat_policies_save_less_and_recompute_more_one_after_the_other():
    """By the elements of the residuals, and the matrix products of forward and backward pass together."""
    saved, products = [], []
    for remat in CHOICES["remat"]:
        model = Transformer(tiny_config(scan_layers=True, remat=remat))

        def loss(params, model=model):
            return jnp.square(model.apply({"params": params}, random_tokens())).mean()

        params = parameter_shapes(model.config)
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        saved.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
        products.append(str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general"))
    assert saved == sorted(set(saved), reverse=True)
    assert products == sorted(set(products))


def test_initial_deviations():
    config = tiny_config(embed_dim=64, mlp_dim=256, use_bias=True, tie_embeddings=False)
    params = quick_jit(Transformer(config).init)(jax.random.key(0), random_tokens())["params"]
    layer = params["layer_1"]
    assert {name: leaf.shape for name, leaf in layer["mlp"]["up"].items()} == {"kernel": (64, 256), "bias": (256,)}
    for kernel in (params["token_embedding"], params["output"]["kernel"], layer["attention"]["query"]["kernel"]):
        np.testing.assert_allclose(kernel.std(), 0.0791, rtol=0.1)  # sqrt(2 / (5 * 64))
    for branch in (layer["attention"]["out"], layer["mlp"]["down"]):
        np.testing.assert_allclose(branch["kernel"].std(), 0.0395, rtol=0.1)  # two layers: half
        assert not branch["bias"].any()
    assert (layer["mlp_norm"]["scale"] == 1).all()


def test_a_token_outside_the_vocabulary_is_not_read_as_another():
    config = tiny_config()
    assert np.isnan(jitted(config)(random_params(config), jnp.full((1, 1), 99))).all()


def test_impossible_lengths_are_refused():
    config = tiny_config()
    params, apply = random_params(config), jitted(config)
    with pytest.raises(UserError, match=r"data\.length"):
        apply(params, random_tokens(length=LENGTH + 1))
    with pytest.raises(UserError, match=r"data\.length"):
        apply(params, random_tokens(length=1), cache=init_cache(config, 2, LENGTH + 1))
    with pytest.raises(ValueError, match="2 slots"):
        apply(params, random_tokens(length=3), cache=init_cache(config, 2, 2))
    with pytest.raises(ValueError, match=r"expected \(2, 8\)"):
        apply(params, random_tokens(), attention_mask=jnp.ones((2, 7), bool))
    with pytest.raises(ValueError, match="segment_ids"):
        apply(params, random_tokens(), segment_ids=random_tokens(), cache=init_cache(config, 2, 8))
