import random

import pytest
from tokenizers import normalizers, pre_tokenizers

from jaxdp.data.tokenizers import cuts
from jaxdp.data.tokenizers.cuts import cut_at_blanks, sample_pieces
from jaxdp.errors import UserError

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
BERT = pre_tokenizers.BertPreTokenizer()
BERT_NORMALIZER = normalizers.BertNormalizer(lowercase=False, strip_accents=False)


def gpt2_words(text):
    return [word for word, _ in GPT2.pre_tokenize_str(text)]


def bert_words(text):
    return [word for word, _ in BERT.pre_tokenize_str(BERT_NORMALIZER.normalize_str(text))]


@pytest.mark.parametrize("words", [gpt2_words, bert_words])
def test_words_of_the_pieces_are_the_words_of_the_whole(words):
    rng = random.Random(0)
    alphabet = ["a", "é", "日", "1", "!", "'", "'s", "\0", "\x1f", "\u0301", "😀", *"  \n\n\t\r", "\x85", "\u2028"]
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=60))
        pieces = cut_at_blanks(text, rng.randrange(4))
        assert "".join(pieces) == text
        assert [word for piece in pieces for word in words(piece)] == words(text)


def test_every_character_may_stand_before_a_cut():
    points = [*range(0xD800), *range(0xE000, 0x110000, 64)]
    for blank in ("\n", " "):
        for start in range(0, len(points), 8192):
            text = "".join(chr(point) + blank for point in points[start : start + 8192])
            pieces = cut_at_blanks(text, 1)
            assert [word for piece in pieces for word in gpt2_words(piece)] == gpt2_words(text)


def test_where_it_cuts():
    assert cut_at_blanks("", 0) == [""]
    assert cut_at_blanks("ab  \n  cd\nef", 0) == ["ab", "  \n  cd", "\nef"]
    assert cut_at_blanks("ab  \n  cd\nef", 3) == ["ab  \n  cd", "\nef"]
    assert cut_at_blanks("ab\x85cd", 0) == ["ab\x85cd"]


def test_sample_of_little_is_all():
    texts = ["a b", "", "c" * 100]
    assert "".join(sample_pieces(texts)) == "".join(texts)


def test_sample_of_much_is_spread_over_all():
    numbers = [int(piece) for piece in sample_pieces((f"{i:04d}" for i in range(1000)), 1000)]
    assert numbers == list(range(0, 1000, 4))  # 250 pieces of 4 bytes
    assert len(sample_pieces((f"{i:04d}" for i in range(1001)), 1000)) == 126


def test_sample_counts_bytes_and_holds_little():
    assert len(sample_pieces(("éé" for _ in range(100)), 100)) == 25
    held = 0

    def texts():
        nonlocal held
        for held in range(100_000):  # noqa: B007
            yield "a" * 100

    assert sum(map(len, sample_pieces(texts(), 10_000))) in range(5_000, 10_001)
    assert held == 99_999


def test_sample_cuts_what_has_no_blank(monkeypatch):
    monkeypatch.setattr(cuts, "MAX_SAMPLE_PIECE", 10)
    assert sample_pieces(["a" * 25]) == ["a" * 10, "a" * 10, "a" * 5]
    assert sample_pieces(["a" * 25], 12) == ["a" * 10]


def test_half_a_surrogate_pair():
    with pytest.raises(UserError, match=r"'\\udce9' at position 4 is half of a surrogate"):
        sample_pieces(["abc", "caf \udce9"])
