"""Beam search against a plain one without a cache; its scores are checked in test_teacher_forcing.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_decoding
from tiny_decoding import CONTEXT, decoding_model, random_prompts
from tiny_translation import (
    END,
    TARGET_LENGTH,
    Uncached,
    parts_of,
    quick_jit,
    random_params,
    random_sources,
    source_batch,
    translation_model,
)

from jaxdp.decoding.beam import BeamSearch, make_beam_search
from jaxdp.decoding.eos import eos_ids_of
from jaxdp.errors import UserError
from jaxdp.model import CHOICES

NUM_NEW = TARGET_LENGTH - 1
LENGTHS = [6, 2, 4, 3, 5, 1, 6, 6]


def searcher(model, search, num_new=NUM_NEW, end=END):
    """beam_search(params, batch), compiled, with NumPy results."""
    run = quick_jit(make_beam_search(*parts_of(model), search, num_new=num_new, eos_id=end))
    return lambda params, batch: jax.tree.map(np.asarray, run(params, batch))


def plain_beam_search(next_log_probabilities, search, num_new, end):
    """Searches for one sequence with lists of `(log-probability, tokens)`, as documented at `make_beam_search`.

    It stops early only when num_beams hypotheses have finished.
    """
    ends = eos_ids_of(end)
    live, finished = [(0.0, [])], []
    for _ in range(num_new):
        extended = [
            (total + step, [*tokens, word])
            for total, tokens in live
            for word, step in enumerate(next_log_probabilities(tokens))
        ]
        extended.sort(key=lambda pair: -pair[0])
        finished += [pair for pair in extended[: search.num_beams] if pair[1][-1] in ends]
        live = [pair for pair in extended if pair[1][-1] not in ends][: search.num_beams]
        if len(finished) >= search.num_beams:
            break

    def by_score(pairs):
        return sorted(pairs, key=lambda pair: -pair[0] / ((5 + len(pair[1])) / 6) ** search.length_penalty)

    chosen = by_score(finished) + by_score(live)
    return chosen[: search.num_returned], len(finished)


def check(result, row, expected, num_finished, search, end=END):
    for place, (total, tokens) in enumerate(expected):
        filled = tokens + [eos_ids_of(end)[0]] * (result["tokens"].shape[2] - len(tokens))
        assert result["tokens"][row, place].tolist() == filled
        np.testing.assert_allclose(result["log_probabilities"][row, place], total, rtol=0, atol=1e-4)
        score = total / ((5 + len(tokens)) / 6) ** search.length_penalty
        np.testing.assert_allclose(result["scores"][row, place], score, rtol=0, atol=1e-4)
        assert result["finished"][row, place] == (place < num_finished)


@pytest.mark.parametrize(
    ("positions", "search", "options", "seed"),
    [
        pytest.param(
            "sinusoidal", BeamSearch(4, 0.6, 4), {"norm_position": "post", "use_bias": True}, 2, marks=pytest.mark.slow
        ),
        pytest.param(
            "learned", BeamSearch(3, 0.0, 3), {"num_kv_heads": 2, "scan_layers": True}, 2, marks=pytest.mark.slow
        ),
        pytest.param("rotary", BeamSearch(2, 1.0, 1), {}, 7, marks=pytest.mark.slow),
        ("relative", BeamSearch(4, 2.0, 2), {"norm": "rmsnorm"}, 2),
    ],
)
def test_beam_search_equals_the_reference(positions, search, options, seed):
    """Each row alone and without padding, here all of them together."""
    check_against_the_plain_search(positions, search, options, seed, END)


@pytest.mark.slow  # of samples: tests/inference/test_generate_decoder.py
@pytest.mark.parametrize(("others", "num_beams"), [((1,), 3), ((6, 1, 2, 9), 2)])
def test_any_of_several_ids_ends_a_hypothesis(others, num_beams):
    """With more ids than beams the live hypotheses are found behind the ends of all others."""
    check_against_the_plain_search("sinusoidal", BeamSearch(num_beams, 0.6, num_beams), {}, 2, (END, *others))


def check_against_the_plain_search(positions, search, options, seed, end):
    model = translation_model(positions=positions, **options)
    params, sources = random_params(model, seed), random_sources(LENGTHS)
    uncached = Uncached(model, params)
    result = searcher(model, search, end=end)(params, source_batch(sources))
    numbers = set()
    for row, source in enumerate(sources):
        expected, num_finished = plain_beam_search(
            lambda tokens, source=source: uncached.log_probabilities(source, [END, *tokens]),
            search,
            NUM_NEW,
            end,
        )
        check(result, row, expected, num_finished, search, end)
        numbers.add(num_finished)
    # Some rows are full of finished hypotheses, some are cut.
    assert len(numbers) > 1 or (isinstance(end, tuple) and numbers == {search.num_beams})


@pytest.mark.parametrize(
    "options",
    [
        *({"positions": positions} for positions in CHOICES["positions"] if positions == "relative"),
        *(
            pytest.param({"positions": positions}, marks=pytest.mark.slow)
            for positions in CHOICES["positions"]
            if positions != "relative"
        ),
        {"positions": "rotary", "attention_window": 3, "attention_window_pattern": (1, 0)},
    ],
    ids=lambda options: "-".join(options) if len(options) > 1 else options["positions"],
)
def test_prompts_of_a_decoder_are_shared_by_their_beams(options):
    """Prompts of different lengths, padded on the left, as one kept once a row.

    Slots of hypotheses alternate, so that a window of tokens is not one of slots.
    """
    model, search = decoding_model(**options), BeamSearch(3, 0.6, 3)
    params, prompts = tiny_decoding.random_params(model, seed=2), random_prompts([6, 1, 4])
    logits = quick_jit(lambda tokens: model.apply({"params": params}, tokens[None])[0])

    def after(prompt, tokens):
        seen = [*prompt, *tokens]
        filled = np.zeros(CONTEXT, np.int32)
        filled[: len(seen)] = seen
        return np.asarray(jax.nn.log_softmax(logits(filled)[len(seen) - 1]), np.float64)

    tokens, mask = np.zeros((3, 6), np.int32), np.zeros((3, 6), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, 6 - len(prompt) :], mask[row, 6 - len(prompt) :] = prompt, True
    result = searcher(model, search, num_new=6, end=1)(params, {"tokens": tokens, "prompt_mask": mask})
    for row, prompt in enumerate(prompts):
        expected, num_finished = plain_beam_search(functools.partial(after, prompt), search, 6, end=1)
        check(result, row, expected, num_finished, search, end=1)


@pytest.fixture(scope="module")
def model():
    return translation_model(positions="relative", norm="rmsnorm")


@pytest.fixture(scope="module")
def params(model):
    return random_params(model, seed=2)


@pytest.fixture(scope="module")
def batch():
    return source_batch(random_sources(LENGTHS))


@pytest.fixture(scope="module")
def found(model, params, batch):
    return searcher(model, BeamSearch(4, 0.6, 4))(params, batch)


def test_hypotheses_do_not_depend_on_the_batch_or_padding(model, params, batch, found):
    order = [3, 5]
    apart = {name: array[order] for name, array in batch.items()}
    wider = {name: np.pad(apart[name], ((0, 0), (0, 3))) for name in ("source_tokens", "source_mask")}
    again = searcher(model, BeamSearch(4, 0.6, 4))(params, apart | wider)
    np.testing.assert_array_equal(again["tokens"], found["tokens"][order])
    np.testing.assert_allclose(again["scores"], found["scores"][order], rtol=0, atol=1e-5)


def test_num_returned_truncates_the_hypotheses(model, params, batch, found):
    """Stopping as soon as the best cannot change leaves it as it is."""
    best = searcher(model, BeamSearch(4, 0.6, 1))(params, batch)
    for name, value in best.items():
        np.testing.assert_allclose(value, found[name][:, :1], rtol=0, atol=1e-5, err_msg=name)


def test_several_devices_equal_one(model, params, batch, found):
    search = make_beam_search(*parts_of(model), BeamSearch(4, 0.6, 4), num_new=NUM_NEW, eos_id=END)
    split = {name: array.reshape(4, 2, *array.shape[1:]) for name, array in batch.items()}
    spread = jax.pmap(search, in_axes=(None, 0), devices=jax.devices()[:4])(params, split)
    for name, value in spread.items():
        value = np.asarray(value).reshape(found[name].shape)
        np.testing.assert_allclose(value, found[name], rtol=0, atol=1e-5, err_msg=name)


def stub_search(step_logits, search, num_new, rows=1):
    """Searches with a model that says `step_logits` always; also the number of its forward passes."""
    calls = []

    def apply(params, tokens, *, cache, predict_at=None, **options):
        jax.debug.callback(lambda: calls.append(1), ordered=True)
        length = tokens.shape[1] if predict_at is None else 1
        return jnp.broadcast_to(jnp.asarray(step_logits, jnp.float32), (rows, length, len(step_logits))), cache

    run = make_beam_search(apply, lambda rows, slots: jnp.zeros(()), search, num_new=num_new, eos_id=0)
    batch = {"tokens": np.zeros((rows, 1), np.int32), "prompt_mask": np.ones((rows, 1), bool)}
    result = jax.tree.map(np.asarray, quick_jit(run)({}, batch))
    jax.effects_barrier()
    return result, len(calls)


def test_search_stops_when_all_beams_have_finished():
    """End of text is the likeliest, always: one hypothesis ends at first, then all three."""
    result, calls = stub_search([3.0, 1.0, 0.5, 0.0], BeamSearch(3, 0.0, 3), num_new=20)
    assert calls == 2
    assert result["tokens"][0, :, :4].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]]
    assert result["finished"].all()


def test_search_stops_when_the_result_is_final():
    """After one step the hypothesis that ended has 0.9, all others together 0.1."""
    logits = np.log([0.9, 0.04, 0.03, 0.03])
    _, calls = stub_search(logits, BeamSearch(3, 0.0, 1), num_new=20)
    assert calls == 1
    # The longer the text may become, the smaller its divisor can make a loss.
    _, calls = stub_search(logits, BeamSearch(3, 3.0, 1), num_new=20)
    assert calls > 1


def test_cut_hypotheses_rank_after_finished_ones():
    """End of text has the least probability of what is among the best: few can finish."""
    logits = np.log([0.2, 0.5, 0.29, 0.01])
    result, _ = stub_search(logits, BeamSearch(3, 0.0, 3), num_new=3)
    assert result["finished"].tolist() == [[True, False, False]]
    assert result["tokens"].tolist() == [[[0, 0, 0], [1, 1, 1], [1, 1, 2]]]
    np.testing.assert_allclose(result["log_probabilities"][0], np.log([0.2, 0.125, 0.0725]), rtol=1e-5)


def test_ties_are_resolved_as_in_greedy_decoding():
    """Sums in float32 hide a difference of one unit in the last place of the logits."""
    logits = np.zeros(5, np.float32)
    logits[[2, 3]] = 1.0, np.nextafter(np.float32(1.0), np.float32(2.0))
    result, _ = stub_search(logits, BeamSearch(1), num_new=30)
    assert result["tokens"].tolist() == [[[3] * 30]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "--num_beams=0 must be 1"),
        ({"num_beams": 2, "length_penalty": -0.1}, "length_penalty = -0.1"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty = nan"),
        ({"num_beams": 2, "num_returned": 3}, "3 hypotheses cannot be returned with --num_beams=2"),
        ({"num_beams": 2, "num_returned": 0}, "0 hypotheses"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        BeamSearch(**options)


def test_as_many_beams_as_tokens_are_refused():
    with pytest.raises(UserError, match=r"--num_beams=4 is too many for a vocabulary of 4"):
        stub_search([0.0] * 4, BeamSearch(4), num_new=2)
