"""Prefill in chunks: logits and cache of the prompt in one piece, and scores of a chunk only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_translation
from tiny_decoding import VOCAB_SIZE, decoding_model, lively_params
from tiny_translation import parts_of, quick_jit, random_sources, source_batch, translation_model

from jaxdp.decoding.prefill import prefill
from jaxdp.model import parameter_shapes

LENGTH, SLOTS = 11, 14


def prompts_of(lengths, length=LENGTH):
    """Random prompts with left padding."""
    random = np.random.default_rng(0)
    return {
        "tokens": random.integers(1, VOCAB_SIZE - 2, (len(lengths), length)).astype(np.int32),
        "prompt_mask": np.arange(length)[None] >= length - np.asarray(lengths)[:, None],
    }


def filled(model, params, batch, chunk):
    apply, make_cache = parts_of(model)
    rows = len(batch["tokens"])
    run = quick_jit(lambda params, batch: prefill(apply, params, batch, make_cache(rows, SLOTS), SLOTS, chunk=chunk))
    return run(params, batch)


MODELS = {
    "learned": {"positions": "learned"},
    "relative": {"positions": "relative", "num_kv_heads": 2},
    "rotary window": {"positions": "rotary", "attention_window": 3, "scan_layers": True},
}


@pytest.mark.parametrize(("name", "chunk"), [*((name, 4) for name in MODELS), ("learned", 1)])
def test_chunks_give_what_the_whole_prompt_gives(name, chunk):
    """Rows with and without padding; of one, the first chunk is padding only."""
    model = decoding_model(SLOTS, **MODELS[name])
    params, batch = lively_params(model, seed=0), prompts_of([LENGTH, 7, 2])
    expected, found = (filled(model, params, batch, size) for size in (LENGTH, chunk))
    assert np.ptp(expected.logits, axis=0).max() > 0.3  # the prompts matter
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)
    assert found.cache.index == LENGTH and found.prompt_lengths.tolist() == [LENGTH, 7, 2]
    mask = np.pad(batch["prompt_mask"], ((0, 0), (0, SLOTS - LENGTH)))[:, None, :, None]
    for one, other in zip(jax.tree.leaves(found.cache.values), jax.tree.leaves(expected.cache.values), strict=True):
        # Positions of padding hold what nobody reads.
        np.testing.assert_allclose(np.asarray(one) * mask, np.asarray(other) * mask, rtol=0, atol=1e-5)


def test_the_source_is_read_once_for_all_chunks():
    model = translation_model(target_length=SLOTS, positions="rotary")
    params = tiny_translation.random_params(model, seed=2)
    batch = source_batch(random_sources([5, 6])) | prompts_of([LENGTH, 6])
    expected, found = (filled(model, params, batch, size) for size in (LENGTH, 3))
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)
    apply, encoded = parts_of(model)[0], []

    def counting(*arguments, method, **options):
        encoded.append(method)
        return apply(*arguments, method=method, **options)

    cache = parts_of(model)[1](2, SLOTS)
    jax.eval_shape(lambda params: prefill(counting, params, batch, cache, SLOTS, chunk=3), params)
    assert encoded == ["encode", "decode", "decode"]  # the first chunk, and the body of the loop


def test_scores_of_the_whole_prompt_never_exist():
    """A prompt of 512 tokens in chunks of 64: the temporaries of the program shrink by more than half."""
    rows, heads, length = 2, 4, 512
    model = decoding_model(length + 1, positions="rotary")
    apply, make_cache = parts_of(model)
    batch = {"tokens": jnp.ones((rows, length), jnp.int32), "prompt_mask": jnp.ones((rows, length), bool)}
    cache = make_cache(rows, length + 1)

    def compiled(chunk):
        run = functools.partial(prefill, apply, slots=length + 1, chunk=chunk)
        return quick_jit(run, donate_argnums=2).lower(parameter_shapes(model.config), batch, cache).compile()

    whole, chunked = compiled(length), compiled(64)
    scores = f"[{rows},{heads},{length},{length + 1}]"
    assert scores in whole.as_text() and scores not in chunked.as_text()
    used = [program.memory_analysis().temp_size_in_bytes for program in (whole, chunked)]
    assert used[0] > 4 * rows * heads * length * length and used[1] < used[0] / 4
