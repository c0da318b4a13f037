"""Rows of any lengths and number, on any devices, past the end of the context."""

import jax
import pytest
from tiers import others_slow
from tiny_decoding import (
    CONTEXT,
    VOCAB_SIZE,
    Uncached,
    decoding_model,
    random_params,
    random_prompts,
)
from tiny_training import topology

from jaxdp.decoding.sampling import Sampling
from jaxdp.errors import UserError
from jaxdp.inference import decoder as decoder_module
from jaxdp.inference.decoder import Decoder
from jaxdp.inference.generate import generate

NEVER = VOCAB_SIZE  # an end of text that no draw gives
GREEDY, SAMPLED = Sampling(temperature=0), Sampling(temperature=1.0)

MODEL = decoding_model(num_layers=1, positions="rotary")
PARAMS = random_params(MODEL)


def make_decoder(devices, sampling=GREEDY, eos_id=NEVER):
    here = topology(devices)
    return Decoder(MODEL, jax.device_put(PARAMS, here.replicated), here, sampling, eos_id)


@pytest.fixture(scope="module")
def uncached():
    return Uncached(MODEL, PARAMS)


@pytest.fixture(scope="module")
def greedy():
    return make_decoder(2)


@pytest.fixture(scope="module")
def sampled():
    return make_decoder(2, SAMPLED)


def as_lists(rows):
    return [row.tolist() for row in rows]


@pytest.mark.parametrize("devices", others_slow([1, 2, 8], 8))
def test_the_number_of_devices_changes_nothing(devices, uncached):
    """Three rows, which fill neither 2 nor 8 devices."""
    prompts = random_prompts([5, 1, 3])
    new = make_decoder(devices).continue_rows(prompts, [0, 0, 0], 6)
    assert as_lists(new) == [uncached.continuation(prompt, 6) for prompt in prompts]


def test_draws_are_the_same_on_any_devices_and_differ_by_seed(sampled):
    prompts = random_prompts([4]) * 4
    new = as_lists(sampled.continue_rows(prompts, [5, 6, 5, 7], 6))
    assert new[0] == new[2]
    assert len({tuple(row) for row in new}) == 3
    assert as_lists(make_decoder(8, SAMPLED).continue_rows(prompts, [5, 6, 5, 7], 6)) == new


# Lengths and counts below are chosen so that the tests share compiled chunks: prompts of 1 and 11
# tokens are continued in chunks of 11 or 1 tokens first, then of 6.


@pytest.mark.parametrize(("length", "num_new"), [(1, 11 + 6 + 6), (11, 1 + 6 + 6)])
def test_beyond_the_context_a_row_goes_on_from_its_last_half(length, num_new, greedy, uncached):
    prompts = random_prompts([length, length])
    new = greedy.continue_rows(prompts, [0, 0], num_new)
    assert as_lists(new) == [uncached.continuation(prompt, num_new) for prompt in prompts]


def test_what_a_row_sees_does_not_depend_on_its_company(greedy, uncached):
    """Beside rows that outgrow the context twice, one that just fits."""
    prompts = random_prompts([11, 1, 11])
    new = greedy.continue_rows(prompts, [0] * 3, 11)
    assert as_lists(new) == [uncached.continuation(prompt, 11) for prompt in prompts]


def test_a_sample_that_outgrew_the_context_can_be_drawn_again_alone(sampled):
    prompts = random_prompts([11, 11])
    together = as_lists(sampled.continue_rows(prompts, [1, 2], 13))
    for row in range(2):
        assert as_lists(sampled.continue_rows([prompts[row]], [row + 1], 13)) == [together[row]]
    assert as_lists(sampled.continue_rows([prompts[0]], [3], 13)) != [together[0]]
    # Each chunk draws from numbers of its own.
    assert together[0][1:7] != together[0][7:13]


def test_a_row_ends_before_its_end_of_text(uncached):
    prompts = random_prompts([11, 11])
    free = [uncached.continuation(prompt, 13) for prompt in prompts]
    end = next(token for token in free[0][7:] if token not in free[0][:7])  # in the third chunk
    expected = [row[: row.index(end)] if end in row else row for row in free]
    assert len({len(row) for row in expected}) == 2
    new = make_decoder(2, eos_id=end).continue_rows(prompts, [0, 0], 13)
    assert as_lists(new) == expected


def test_a_row_ends_before_the_first_of_several_ids(uncached):
    prompts = random_prompts([11, 11])
    free = [uncached.continuation(prompt, 13) for prompt in prompts]
    late = next(token for token in free[0][7:] if token not in free[0][:7])  # in the third chunk
    early = next(token for token in free[1][1:] if token not in free[0])
    expected = [row[: min(row.index(end) for end in (late, early) if end in row)] for row in free]
    new = make_decoder(2, eos_id=(late, early)).continue_rows(prompts, [0, 0], 13)
    assert as_lists(new) == expected and len(expected[0]) >= 7


def test_nothing_is_decoded_after_all_rows_have_ended(uncached, monkeypatch):
    [prompt] = random_prompts([11])
    decoder = make_decoder(2, eos_id=uncached.continuation(prompt, 1)[0])
    calls, decode = [], decoder._decode
    monkeypatch.setattr(decoder, "_decode", lambda *arguments: calls.append(1) or decode(*arguments))
    assert as_lists(decoder.continue_rows([prompt] * 3, [0] * 3, 100)) == [[]] * 3
    assert len(calls) == 1


def test_chunks_of_the_same_shape_are_compiled_once(monkeypatch):
    decoder, calls = make_decoder(2), []

    def count(owner, name, call):
        monkeypatch.setattr(owner, name, lambda *given, **options: calls.append(name) or call(*given, **options))

    count(decoder_module, "compile_spmd", decoder_module.compile_spmd)
    count(decoder, "_decode", decoder._decode)
    decoder.continue_rows(random_prompts([6]), [0], CONTEXT // 2 * 3)
    assert sorted(calls) == ["_decode"] * 3 + ["compile_spmd"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "--seed=-1 is out of range: 1 samples need one from 0 to 4294967295"),
        ({"seed": 2**32 - 1, "num_samples": 2}, "from 0 to 4294967294"),
        ({"num_samples": 0}, "at least 1"),
        ({"max_new_tokens": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_read(options, message):
    with pytest.raises(UserError, match=message):
        generate("nowhere", ["text"], **options)
