"""The decode loop against whole forward passes without a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_translation
from tiny_decoding import (
    CONTEXT,
    VOCAB_SIZE,
    Uncached,
    decoding_model,
    random_params,
    random_prompts,
)
from tiny_translation import (
    parts_of,
    quick_jit,
    random_sources,
    source_batch,
    translation_model,
)

from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.sampling import Sampling
from jaxdp.model import init_cache
from jaxdp.tasks.model_functions import apply_model

GREEDY = Sampling(temperature=0)


def left_padded(prompts, width):
    tokens, mask = np.zeros((len(prompts), width), np.int32), np.zeros((len(prompts), width), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, True
    return {"tokens": tokens, "prompt_mask": mask}


def decoder(model, sampling=GREEDY, *, num_new=6, eos_id=None):
    """call(params, prompts, width, seeds=None, offset=0) -> [rows, num_new]."""
    decode = quick_jit(
        make_decode(
            functools.partial(apply_model, model),
            functools.partial(init_cache, model.config),
            sampling,
            num_new=num_new,
            eos_id=eos_id,
        )
    )

    def call(params, prompts, width=6, seeds=None, offset=0):
        rows = len(prompts)
        batch = left_padded(prompts, width) | {
            "seeds": np.asarray(range(rows) if seeds is None else seeds, np.uint32),
            "offset": np.full(rows, offset, np.int32),
        }
        return np.asarray(decode(params, batch)["tokens"][:, 0])

    return call


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({"positions": "learned"}, marks=pytest.mark.slow),
        pytest.param({"positions": "sinusoidal", "num_kv_heads": 1}, marks=pytest.mark.slow),
        {"positions": "relative", "num_kv_heads": 2},
        pytest.param({"positions": "rotary", "num_kv_heads": 2}, marks=pytest.mark.slow),
        {"positions": "rotary", "scan_layers": True, "norm": "rmsnorm", "activation": "swiglu"},
    ],
    ids=lambda overrides: "-".join(map(str, overrides.values())),
)
def test_greedy_decoding_equals_whole_forward_passes(overrides):
    """Prompts of different lengths in one batch: each as if it were alone."""
    model = decoding_model(**overrides)
    params, prompts = random_params(model), random_prompts([6, 1, 3, 6])
    uncached = Uncached(model, params)
    expected = [uncached.continuation(prompt, 6) for prompt in prompts]
    assert len(np.unique(expected)) > 3  # the model says something
    np.testing.assert_array_equal(decoder(model)(params, prompts), expected)


def test_a_prompt_of_the_target_is_continued():
    """A forced beginning, such as the name of a language, is what an encoder-decoder goes on from."""
    model = translation_model(positions="rotary")
    params, [source] = tiny_translation.random_params(model, seed=2), random_sources([5])
    decode = quick_jit(make_decode(*parts_of(model), GREEDY, num_new=4, eos_id=None))
    batch = source_batch([source] * 2) | {
        "tokens": np.array([[3, 0, 4, 7], [0, 4, 7, 2]], np.int32),
        "prompt_mask": np.array([[False, True, True, True], [True] * 4]),
        "seeds": np.zeros(2, np.uint32),
        "offset": np.zeros(2, np.int32),
    }
    uncached = tiny_translation.Uncached(model, params)
    expected = [uncached.greedy(source, 4, begun) for begun in ([0, 4, 7], [0, 4, 7, 2])]
    np.testing.assert_array_equal(decode(params, batch)["tokens"][:, 0], expected)


@pytest.fixture(scope="module")
def model():
    return decoding_model(positions="learned")


@pytest.fixture(scope="module")
def params(model):
    return random_params(model)


def test_eos_ends_a_sequence_and_pads_it(model, params):
    prompts = random_prompts([6, 2, 4, 5])
    free = decoder(model)(params, prompts)
    end = int(free[0, 2])  # what the first row says third
    first = [list(row).index(end) if end in row else None for row in free]
    assert first[0] is not None
    assert None in first  # some row does not end
    expected = free.copy()
    for row, place in enumerate(first):
        if place is not None:
            expected[row, place:] = end
    np.testing.assert_array_equal(decoder(model, eos_id=end)(params, prompts), expected)


def test_the_loop_ends_when_all_sequences_have_ended():
    """A model that says token 1 always: no further forward pass once all rows have said it."""
    calls = []

    def apply(params, tokens, *, cache, **options):
        jax.debug.callback(lambda: calls.append(1), ordered=True)
        logits = jnp.zeros((*tokens.shape, VOCAB_SIZE)).at[:, :, 1].set(1.0)
        return logits, cache

    decode = make_decode(apply, lambda rows, slots: jnp.zeros(()), GREEDY, num_new=5, eos_id=1)
    batch = left_padded(random_prompts([3, 3]), 3) | {"seeds": np.zeros(2, np.uint32), "offset": np.zeros(2, np.int32)}
    tokens = quick_jit(decode)({}, batch)["tokens"]
    jax.effects_barrier()
    assert tokens.tolist() == [[[1] * 5]] * 2
    assert len(calls) == 2  # the prompt, and the token after it


SAMPLED = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def sampled(model):
    return decoder(model, SAMPLED)


def test_samples_depend_on_the_seed_and_not_on_the_index(model, params, sampled):
    [prompt] = random_prompts([4])
    tokens = sampled(params, [prompt] * 4, seeds=[7, 8, 7, 9])
    np.testing.assert_array_equal(tokens[0], tokens[2])
    assert len({tuple(row) for row in tokens}) == 3
    np.testing.assert_array_equal(sampled(params, [prompt] * 4, seeds=[9, 9, 9, 8])[0], tokens[3])


def test_samples_do_not_depend_on_the_batch(params, sampled):
    prompts = random_prompts([6, 1, 3, 6])
    tokens = sampled(params, prompts, seeds=[3, 4, 5, 6])
    order = [2, 1]
    again = sampled(params, [prompts[row] for row in order], width=4, seeds=[5, 4])
    np.testing.assert_array_equal(again, tokens[order])


def test_a_later_call_continues_the_samples(params, sampled, model):
    """The second half of a continuation, from a prompt that holds the first half."""
    prompts = random_prompts([2, 4])
    whole = sampled(params, prompts, width=4, seeds=[1, 2])
    longer = [np.concatenate([prompt, row[:3]]) for prompt, row in zip(prompts, whole, strict=True)]
    rest = decoder(model, SAMPLED, num_new=3)(params, longer, width=7, seeds=[1, 2], offset=3)
    np.testing.assert_array_equal(rest, whole[:, 3:])


def test_the_whole_context_can_be_used(model, params):
    prompts = random_prompts([CONTEXT - 6, 2])
    uncached = Uncached(model, params)
    np.testing.assert_array_equal(
        decoder(model)(params, prompts, width=CONTEXT - 6), [uncached.continuation(prompt, 6) for prompt in prompts]
    )
