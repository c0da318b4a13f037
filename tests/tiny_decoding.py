"""Models for decoding, and decoding written out without a cache."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.model import Transformer, model_config, parameter_shapes
from jaxdp.trees import leaf_name

VOCAB_SIZE, CONTEXT = 13, 12


def decoding_model(context=CONTEXT, **overrides):
    shapes = {"num_layers": 2, "num_heads": 4, "embed_dim": 16, "mlp_dim": 24}
    config = model_config("nano", shapes | overrides, vocab_size=VOCAB_SIZE, max_length=context)
    return Transformer(config)


def random_params(model, seed=0):
    """Every leaf normal, large enough that continuations differ by prompt."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.4, leaf.shape), jnp.float32),
        parameter_shapes(model.config),
    )


def lively_params(model, seed):
    """Kernels and embeddings that make texts vary; norms and biases that do not drown them."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name = leaf_name(path)
        if name.endswith(("scale", "bias")):
            return random.normal(name.endswith("scale"), 0.1, leaf.shape).astype(np.float32)
        return random.normal(0, 1.5 if "cross_attention" in name else 0.6, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, parameter_shapes(model.config))


def random_prompts(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCAB_SIZE, length).astype(np.int32) for length in lengths]


class Uncached:
    """Greedy continuation of one prompt by a whole forward pass a token.

    Rows are filled up to the context at the right, where causality hides it, so
    that one program serves all lengths. A full context goes on from its last half.
    """

    def __init__(self, model, params):
        self._logits = jax.jit(lambda tokens: model.apply({"params": params}, tokens[None])[0])

    def continuation(self, prompt, num_new):
        seen, new = list(prompt), []
        for _ in range(num_new):
            if len(seen) == CONTEXT:
                seen = seen[CONTEXT // 2 :]
            filled = np.zeros(CONTEXT, np.int32)
            filled[: len(seen)] = seen
            new.append(int(np.argmax(self._logits(filled)[len(seen) - 1])))
            seen.append(new[-1])
        return new
