"""An encoder-decoder for decoding, batches of it, and its logits without a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.model import Transformer, init_cache, model_config, parameter_shapes
from jaxdp.tasks.model_functions import apply_model
from jaxdp.trees import leaf_name

SOURCE_WORDS, TARGET_WORDS, SOURCE_LENGTH, TARGET_LENGTH, END = 17, 11, 6, 9, 0

# Compiling is nearly all that these tests do: without LLVM's optimisations.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def translation_model(target_length=TARGET_LENGTH, **overrides):
    shapes = {"num_layers": 1, "num_decoder_layers": 2, "num_heads": 4, "embed_dim": 16, "mlp_dim": 24}
    config = model_config(
        "seq2seq_nano",
        shapes | {"share_embeddings": False, "tie_embeddings": False, "dropout_rate": 0.0} | overrides,
        vocab_size=SOURCE_WORDS,
        max_length=SOURCE_LENGTH,
        target_vocab_size=TARGET_WORDS,
        max_target_length=target_length,
    )
    return Transformer(config)


def random_params(model, seed):
    """Every leaf normal; large enough that the source matters and that texts end at different times."""
    random = np.random.default_rng(seed)

    def draw(path, shape):
        deviation = 1.5 if "cross_attention" in leaf_name(path) else 0.6
        return random.normal(0, deviation, shape.shape).astype(np.float32)

    params = jax.tree.map_with_path(draw, parameter_shapes(model.config))
    params["output"]["kernel"][:, END] *= 1.5
    return jax.tree.map(jnp.asarray, params)


def random_sources(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(1, SOURCE_WORDS, length).astype(np.int32) for length in lengths]


def source_batch(sources, width=SOURCE_LENGTH):
    """Sources padded on the right, and one start token for each target."""
    rows = len(sources)
    tokens, mask = np.full((rows, width), 3, np.int32), np.zeros((rows, width), bool)
    for row, source in enumerate(sources):
        tokens[row, : len(source)], mask[row, : len(source)] = source, True
    return {
        "tokens": np.full((rows, 1), END, np.int32),
        "prompt_mask": np.ones((rows, 1), bool),
        "source_tokens": tokens,
        "source_mask": mask,
    }


def parts_of(model):
    """(apply, make_cache), as the loops of `jaxdp.decoding` take them."""
    return functools.partial(apply_model, model), functools.partial(init_cache, model.config)


class Uncached:
    """Log-probabilities of the next token by a whole forward pass over source and target.

    Targets are filled up at the right, where causality hides it, so that one program
    serves all lengths; the source stands alone, without padding.
    """

    def __init__(self, model, params):
        self._logits = quick_jit(
            lambda source, target: model.apply({"params": params}, source[None], target_tokens=target[None])[0]
        )

    def log_probabilities(self, source, written):
        """Of the token after `written`, which begins with the start token, `[vocab_size]`."""
        filled = np.zeros(TARGET_LENGTH, np.int32)
        filled[: len(written)] = written
        logits = self._logits(jnp.asarray(source), filled)[len(written) - 1]
        return np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)), np.float64)

    def greedy(self, source, num_new, begun=(END,)):
        written = list(begun)
        for _ in range(num_new):
            written.append(int(np.argmax(self.log_probabilities(source, written))))
        return written[len(begun) :]
