"""What is written with a cache, token by token, against one pass of the whole text without one.

Every kind of model: it reads its own words once, all of them together, and must give them the
logits that it wrote them by.
"""

import functools
import itertools

import jax
import numpy as np
import pytest
import tiny_decoding
import tiny_translation
from tiers import others_slow
from tiny_translation import parts_of, quick_jit

from jaxdp.decoding.beam import BeamSearch, make_beam_search
from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.sampling import Sampling
from jaxdp.model import CHOICES

NUM_NEW = 24  # beyond the distances that have a relative bucket of their own
START = tiny_translation.END
NEVER = -1  # an end of text that is not among the words
LENGTHS = [6, 2, 4, 3, 5, 1]
ROWS, WIDTH = len(LENGTHS), max(LENGTHS)
GREEDY, SEARCH = Sampling(temperature=0), BeamSearch(3, 0.6, 3)


class Decoder:
    """Continues prompts of unequal length, padded on the left."""

    def __init__(self, **options):
        self.model = tiny_decoding.decoding_model(WIDTH + NUM_NEW, tie_embeddings=False, **options)
        self._prompts = tiny_decoding.random_prompts(LENGTHS)
        tokens, mask = np.zeros((ROWS, WIDTH), np.int32), np.zeros((ROWS, WIDTH), bool)
        for row, prompt in enumerate(self._prompts):
            tokens[row, WIDTH - len(prompt) :], mask[row, WIDTH - len(prompt) :] = prompt, True
        self.batch = {"tokens": tokens, "prompt_mask": mask}
        self._apply = quick_jit(self.model.apply)

    def whole(self, params, written):
        """Logits by which each row's prompt is followed by `written` `[rows, num_new] int32`."""
        texts = np.zeros((ROWS, WIDTH + NUM_NEW), np.int32)
        for text, prompt, words in zip(texts, self._prompts, written, strict=True):
            text[: len(prompt) + NUM_NEW] = np.concatenate([prompt, words])
        logits = self._apply({"params": params}, texts)
        return np.stack([row[size - 1 : size - 1 + NUM_NEW] for row, size in zip(logits, LENGTHS, strict=True)])


class EncoderDecoder:
    """Writes after sources of unequal length, padded on the right."""

    def __init__(self, **options):
        self.model = tiny_translation.translation_model(1 + NUM_NEW, **options)
        self.batch = tiny_translation.source_batch(tiny_translation.random_sources(LENGTHS))
        self._apply = quick_jit(self.model.apply)

    def whole(self, params, written):
        """Logits by which each row's source is followed by `written` `[rows, num_new] int32`."""
        read = np.concatenate([np.full((ROWS, 1), START, np.int32), written[:, :-1]], axis=1)
        sources, mask = self.batch["source_tokens"], self.batch["source_mask"]
        logits = self._apply({"params": params}, sources, attention_mask=mask, target_tokens=read)
        return np.asarray(logits)


class Case:
    """One kind of model, with parameters by which texts end at different steps."""

    def __init__(self, kind, positions, norm_position):
        self._kind = kind(positions=positions, norm_position=norm_position)
        self._decode = quick_jit(self._recorded)
        self._seen = []
        for seed in range(10):
            self._params = tiny_decoding.lively_params(self._kind.model, seed)
            free = self.greedy(NEVER)[0]
            # The word that rows say first at the most different steps.
            self.end = max(range(free.max() + 1), key=lambda word: len({*first_of(free, word)}))
            if len({*first_of(free, self.end)}) > 2:
                break

    def greedy(self, end):
        """Tokens `[rows, num_new]`, and the logits `[rows, steps, words]` that the loop saw."""
        self._seen.clear()
        draws = {"seeds": np.zeros(ROWS, np.uint32), "offset": np.zeros(ROWS, np.int32)}
        tokens = np.asarray(self._decode(self._params, self._kind.batch | draws, end)["tokens"][:, 0])
        jax.effects_barrier()
        return tokens, np.stack(self._seen[:NUM_NEW], axis=1)

    def _recorded(self, params, batch, end):
        apply, make_cache = parts_of(self._kind.model)

        def recorded(params, tokens, *, method, **options):
            result = apply(params, tokens, method=method, **options)
            if method == "decode":
                jax.debug.callback(self._see, result[0][:, 0], ordered=True)
            return result

        return make_decode(recorded, make_cache, GREEDY, num_new=NUM_NEW, eos_id=end)(params, batch)

    def _see(self, logits):
        self._seen.append(np.asarray(logits))

    def whole(self, written):
        """Logits `[rows, num_new, words]` of one pass of the whole texts `[rows, num_new] int32`."""
        return self._kind.whole(self._params, written)

    def drawn(self, how):
        run = make_decode(*parts_of(self._kind.model), how, num_new=NUM_NEW, eos_id=self.end)
        draws = {"seeds": np.arange(ROWS, dtype=np.uint32), "offset": np.zeros(ROWS, np.int32)}
        return jax.tree.map(np.asarray, quick_jit(run)(self._params, self._kind.batch | draws))

    def search(self, how):
        run = make_beam_search(*parts_of(self._kind.model), how, num_new=NUM_NEW, eos_id=self.end)
        return jax.tree.map(np.asarray, quick_jit(run)(self._params, self._kind.batch))


KINDS = list(itertools.product((Decoder, EncoderDecoder), CHOICES["positions"], CHOICES["norm_position"]))
# Beams meet every scheme of positions, and both places of a single norm.
BEAMS = [kind for number, kind in enumerate(kind for kind in KINDS if kind[2] != "both") if number % 4 in (0, 3)]


KEPT = ("Decoder-rotary-pre", "EncoderDecoder-relative-post")


def name_of(kind):
    return f"{kind[0].__name__}-{kind[1]}-{kind[2]}"


@functools.cache
def case_of(kind):
    return Case(*kind)


def first_of(tokens, word):
    """The step `[rows]` at which each row says `word` first; num_new: never."""
    return np.where((tokens == word).any(axis=-1), (tokens == word).argmax(axis=-1), tokens.shape[-1])


def up_to(end, tokens):
    """True on the tokens of a text, its end included."""
    return np.arange(tokens.shape[-1]) <= first_of(tokens, end)[..., None]


@pytest.mark.parametrize("kind", others_slow(KINDS, *KEPT, key=name_of), ids=name_of)
def test_each_step_has_the_logits_of_the_whole_text(kind):
    case = case_of(kind)
    tokens, logits = case.greedy(case.end)
    assert len({*first_of(tokens, case.end)}) > 2  # texts end at different steps
    steps = logits.shape[1]  # until the last has ended
    expected, said = case.whole(tokens)[:, :steps], up_to(case.end, tokens)[:, :steps]
    np.testing.assert_allclose(logits[said], expected[said], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(tokens[:, :steps][said], expected.argmax(axis=-1)[said])


@pytest.mark.parametrize("kind", others_slow(BEAMS, *KEPT, key=name_of), ids=name_of)
def test_one_beam_is_greedy_token_by_token(kind):
    case = case_of(kind)
    found = case.search(BeamSearch(1))
    np.testing.assert_array_equal(found["tokens"][:, 0], case.greedy(case.end)[0])
    assert_teacher_forced(case, found, BeamSearch(1))


@pytest.mark.parametrize("kind", others_slow(BEAMS, *KEPT, key=name_of), ids=name_of)
def test_beam_scores_are_the_models_own_log_probabilities(kind):
    case = case_of(kind)
    found = case.search(SEARCH)
    assert len({*first_of(found["tokens"], case.end).ravel()}) > 2
    assert_teacher_forced(case, found, SEARCH)


@pytest.mark.parametrize("kind", others_slow(BEAMS, *KEPT, key=name_of), ids=name_of)
def test_scores_of_samples_are_the_models_log_probabilities(kind):
    """Independent of temperature and filter."""
    case = case_of(kind)
    found = case.drawn(Sampling(temperature=1.5, top_k=8))
    assert len({*first_of(found["tokens"], case.end).ravel()}) > 2  # texts end at different steps
    np.testing.assert_array_equal(found["finished"][:, 0], first_of(found["tokens"][:, 0], case.end) < NUM_NEW)
    assert_teacher_forced(case, found, BeamSearch(1, length_penalty=0.0))


def assert_teacher_forced(case, found, how):
    for place in range(how.num_returned):
        tokens = found["tokens"][:, place]
        steps = np.asarray(jax.nn.log_softmax(case.whole(tokens), axis=-1))
        said = up_to(case.end, tokens)
        totals = (np.take_along_axis(steps, tokens[:, :, None], axis=2)[:, :, 0] * said).sum(axis=1)
        np.testing.assert_allclose(found["log_probabilities"][:, place], totals, rtol=0, atol=1e-4)
        scores = totals / ((5 + said.sum(axis=1)) / 6) ** how.length_penalty
        np.testing.assert_allclose(found["scores"][:, place], scores, rtol=0, atol=1e-4)
