"""The two attention kernels agree, and cuDNN is taken only where it can run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.errors import UserError
from jaxdp.model import attention as attention_module
from jaxdp.model import init_cache
from jaxdp.model.attention import fused_attention, reference_attention, uses_cudnn
from jaxdp.model.masks import make_mask

CUDNN = {"dtype": "bfloat16", "embed_dim": 32}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_equals_the_reference(causal, num_kv_heads, masked):
    """The layout and mask of the cuDNN path, on the implementation that runs here."""
    random = np.random.default_rng(0)
    query = jnp.asarray(random.normal(size=(2, 6, 4, 8)), jnp.float32)
    key, value = jnp.asarray(random.normal(size=(2, 2, 6, num_kv_heads, 8)), jnp.float32)
    padding = jnp.asarray([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], bool)
    mask = make_mask(
        causal=causal,
        segment_ids=jnp.asarray([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]]) if masked else None,
        attention_mask=padding if masked else None,
    )

    def reference(query, key, value):
        heads_first = (part.transpose(0, 2, 1, 3) for part in (query, key, value))
        return reference_attention(*heads_first, mask).transpose(0, 2, 1, 3)

    def fused(query, key, value):
        return fused_attention(query, key, value, mask, implementation="xla")

    def weighted(attend):
        return quick_jit(jax.value_and_grad(lambda *parts: (attend(*parts) * jnp.cos(query)).sum(), argnums=(0, 1, 2)))(
            query, key, value
        )

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), weighted(fused), weighted(reference)
    )


def test_the_model_through_the_cudnn_path_equals_plain(monkeypatch):
    config, plain = tiny_config(**CUDNN, platform="gpu"), tiny_config(**CUDNN, attention="plain")
    params, tokens = random_params(plain), random_tokens()
    expected = jitted(plain)(params, tokens)
    calls = []

    def fused(*arguments):
        calls.append(arguments)
        return fused_attention(*arguments, implementation="xla")

    monkeypatch.setattr(attention_module, "fused_attention", fused)
    np.testing.assert_allclose(jitted(config)(params, tokens), expected, atol=0.1)
    assert len(calls) == config.num_layers


def test_auto_takes_cudnn_where_it_applies():
    """The platform is that of the configuration: this process runs on CPU devices throughout."""
    gpu = functools.partial(tiny_config, platform="gpu")
    assert not uses_cudnn(tiny_config(**CUDNN), cached=False)
    assert not uses_cudnn(tiny_config(**CUDNN, platform="tpu"), cached=False)
    assert uses_cudnn(gpu(**CUDNN), cached=False)
    assert not uses_cudnn(gpu(**CUDNN), cached=True)
    assert not uses_cudnn(gpu(embed_dim=32), cached=False)
    assert not uses_cudnn(gpu(dtype="bfloat16"), cached=False)
    assert not uses_cudnn(gpu(**CUDNN, attention="plain"), cached=False)


def test_cudnn_is_refused_where_it_cannot_run():
    for change, named in [
        ({"dtype": "float32"}, "model.dtype"),
        ({"dropout_rate": 0.1}, "model.dropout_rate"),
        ({"embed_dim": 16}, "model.embed_dim"),
    ]:
        with pytest.raises(UserError, match=named):
            tiny_config(**CUDNN | {"attention": "cudnn"} | change)
    config = tiny_config(**CUDNN, attention="cudnn")
    with pytest.raises(UserError, match="needs a GPU"):
        jitted(config)(random_params(config), random_tokens())
    config = tiny_config(**CUDNN, attention="cudnn", platform="gpu")
    with pytest.raises(UserError, match="KV cache"):
        jitted(config)(random_params(config), random_tokens(), cache=init_cache(config, 2, 8))
