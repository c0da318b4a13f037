"""Where words begin and end, as tokens tell it, against the words of the text."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer as LibraryJson
from tokenizers import models

from jaxdp.data.tokenizers import LibraryTokenizer, make_tokenizer

TEXT = "def word_count(text, n=12):\n    return len(text.split()) + n  # the größte word_count of texts\n"
SPECIAL = ("[CLS]", "[MASK]")


def words_of(tokenizer, ids):
    """The texts of runs of tokens that belong together."""
    begins, ends = tokenizer.word_boundaries().T
    words = []
    for place, token in enumerate(ids):
        if place and not begins[token] and not ends[ids[place - 1]]:
            words[-1].append(token)
        else:
            words.append([token])
    return [tokenizer.decode(np.array(word)) for word in words]


@pytest.mark.parametrize("name", ["byte", "char", "bpe:400", "unigram:400"])
def test_words_are_runs_of_letters_with_the_blank_before_them(name):
    tokenizer = make_tokenizer(name, [TEXT] * 20, SPECIAL)
    found = words_of(tokenizer, tokenizer.encode(TEXT))
    assert "".join(found) == TEXT
    for word in found:
        assert re.fullmatch(r"\s*\w+|\s*[^\w\s]+|\s+", word), word
    for word in ("größte", "texts", "text"):
        assert word in [each.strip() for each in found]


def test_words_of_wordpiece_are_the_tokens_without_its_mark():
    tokenizer = make_tokenizer("wordpiece:200", [TEXT] * 20, SPECIAL)
    found = words_of(tokenizer, tokenizer.encode("the splits texts"))
    assert [word.replace(" ", "") for word in found] == ["the", "splits", "texts"]


@pytest.mark.parametrize("name", ["byte", "char", "bpe:400", "wordpiece:200"])
def test_special_tokens_are_words_of_their_own(name):
    tokenizer = make_tokenizer(name, [TEXT], SPECIAL)
    boundaries = tokenizer.word_boundaries()
    assert boundaries.shape == (tokenizer.vocab_size, 2) and boundaries.dtype == bool
    assert boundaries[list(tokenizer.special_ids.values())].all()


def test_whole_words_as_tokens_tell_nothing():
    library = LibraryJson(models.WordLevel({"a": 0, "b": 1, "<eos>": 2}, unk_token="a"))
    library.add_special_tokens(["<eos>"])
    assert LibraryTokenizer(library.to_str()).word_boundaries() is None
