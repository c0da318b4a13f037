"""Training of BPE, WordPiece and Unigram vocabularies with the `tokenizers` library, deterministically.

The same texts in the same order give the same file, in any process and with any number of threads. The library itself
iterates over hash maps in an order that differs between processes; each function describes how it avoids that.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from jaxdp.data.tokenizers.base import special_names
from jaxdp.data.tokenizers.characters import byte_symbol
from jaxdp.data.tokenizers.cuts import sample_pieces
from jaxdp.data.tokenizers.library import LibraryTokenizer
from jaxdp.errors import UserError

UNKNOWN = "[UNK]"
MAX_WORD_LENGTH = 100
"""Maximum number of characters, or bytes, of a word in training: a megabyte without a blank would
take hours as one word. A longer word is [UNK] for WordPiece."""
MIN_OCCURRENCES = 2  # of a pair that is merged
ALPHABET = 1000
"""Number of characters in the alphabet of WordPiece, or a quarter of the vocabulary if that is more."""
SCORE_DECIMALS = 4
"""Decimals of a unigram score: sums in another order differ from the eleventh decimal on."""

BYTE_SYMBOLS = [byte_symbol(byte) for byte in range(256)]


def train_bpe(vocab_size: int, texts: Iterable[str], special_tokens: Iterable[str]) -> LibraryTokenizer:
    """Trains byte pair encoding over the bytes of the words that GPT-2's pattern finds; lossless.

    Args:
        vocab_size: Number of ids: special tokens, 256 bytes, and one per merge.
        texts: Training texts, see `sample_pieces`.
        special_tokens: Names of special tokens in addition to end of text.

    Raises:
        UserError: vocab_size is too small for special tokens and bytes.

    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.2.
    """
    names = special_names(special_tokens)
    _check_size("bpe", vocab_size, len(names) + 256)
    tokenizer = _over_bytes(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_OCCURRENCES,
        special_tokens=list(names),
        initial_alphabet=BYTE_SYMBOLS,
        show_progress=False,
    )
    content = _train(tokenizer, trainer, names, sample_pieces(texts))
    return _finish(content, vocab_size)


def train_wordpiece(vocab_size: int, texts: Iterable[str], special_tokens: Iterable[str]) -> LibraryTokenizer:
    """Trains WordPiece as in BERT: words and punctuation are split, then words into the longest pieces first; lossy.

    Blanks and control characters are lost, and a word with a character outside the alphabet is [UNK]. The alphabet consists
    of the most frequent characters, each at the start of a word and inside (`##`).

    The library would number the `##` characters in the order of its hash map, so they are given to it in order. It would
    also break ties of the alphabet at random, so the alphabet is chosen here.

    Args:
        vocab_size: Number of ids: special tokens with [UNK], the alphabet, and pieces.
        texts: Training texts, see `sample_pieces`.
        special_tokens: Names of special tokens in addition to end of text and [UNK].

    Raises:
        UserError: vocab_size is too small for special tokens and alphabet.

    Source: Devlin et al. 2019, BERT, section 3; Schuster and Nakajima 2012,
    Japanese and Korean Voice Search, section 4.
    Differs: pieces are chosen as pairs by count, as in all open trainers, not by likelihood.
    """
    names = special_names((UNKNOWN, *special_tokens))
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=MAX_WORD_LENGTH))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    pieces = sample_pieces(texts)
    alphabet, inside = _alphabet(pieces, tokenizer, max(ALPHABET, vocab_size // 4))
    _check_size("wordpiece", vocab_size, len(names) + len(alphabet) + len(inside))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_OCCURRENCES,
        special_tokens=[*names, *alphabet, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    content = _train(tokenizer, trainer, names, pieces)
    return _finish(content, vocab_size, "what its alphabet lacks becomes [UNK], blanks are not kept")


def train_unigram(vocab_size: int, texts: Iterable[str], special_tokens: Iterable[str]) -> LibraryTokenizer:
    """Trains a unigram model over the bytes of GPT-2's words; lossless.

    Pieces consist of bytes rather than of characters with `<0xNN>` for unknown ones. Measured on source code and on 100
    languages both need the same number of tokens within 4 %, but the characters of many scripts do not fit a small
    vocabulary at all, and a text that contains `<0x41>` or the blank mark of the library is not restored.

    The sums of the library depend on the order of its hash map in their last digits, and the scores of unseen bytes on the
    map itself. Scores are therefore rounded, unseen bytes get the lowest scores, and pieces are ordered by score, then by
    name.

    Args:
        vocab_size: Number of ids: special tokens, 256 bytes, and pieces.
        texts: Training texts, see `sample_pieces`.
        special_tokens: Names of special tokens in addition to end of text.

    Raises:
        UserError: vocab_size is too small for special tokens and bytes.

    Source: Kudo 2018, Subword Regularization, section 3.2.
    """
    names = special_names(special_tokens)
    _check_size("unigram", vocab_size, len(names) + 256)
    tokenizer = _over_bytes(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(names),
        initial_alphabet=BYTE_SYMBOLS,
        show_progress=False,
    )
    content = _train(tokenizer, trainer, names, sample_pieces(texts))
    scores = dict(content["model"]["vocab"][len(names) :])
    lowest = min(scores.values())
    unmet = lowest + len(BYTE_SYMBOLS) * 1e-4  # the library decreases scores by this step
    for symbol in BYTE_SYMBOLS:
        if scores[symbol] <= unmet:
            scores[symbol] = lowest
    scores = {piece: round(score, SCORE_DECIMALS) for piece, score in scores.items()}
    by_score = sorted(scores, key=lambda piece: (-scores[piece], piece))
    longer = [piece for piece in by_score if len(piece) > 1][: vocab_size - len(names) - 256]
    kept = {*BYTE_SYMBOLS, *longer}
    content["model"]["vocab"] = [
        *([name, 0.0] for name in names),
        *([piece, scores[piece]] for piece in by_score if piece in kept),
    ]
    return _finish(content, vocab_size)


def _over_bytes(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train(
    tokenizer: tokenizers.Tokenizer,
    trainer: trainers.Trainer,
    names: tuple[str, ...],
    pieces: list[str],
) -> dict[str, Any]:
    """Returns the trained tokenizer.json, with these names as its only special tokens."""
    if not any(piece.strip() for piece in pieces):
        raise UserError("data.tokenizer needs text to train on, and the training documents have none.")
    splitter = tokenizer.pre_tokenizer
    for name in names:
        if len(splitter.pre_tokenize_str(name)) == 1:
            raise ValueError(f"the special token {name!r} is a word like others: name it [{name}]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, pre_tokenizers.FixedLength(MAX_WORD_LENGTH)])
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.pre_tokenizer = splitter
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in names]
    return content


def _finish(content: dict[str, Any], wanted: int, *remarks: str) -> LibraryTokenizer:
    canonical = tokenizers.Tokenizer.from_str(json.dumps(content)).to_str(pretty=True)
    tokenizer = LibraryTokenizer(canonical, remarks)
    if tokenizer.vocab_size < wanted:
        tokenizer.remarks += (f"{wanted} were asked for, the data gave no more",)
    return tokenizer


def _alphabet(pieces: list[str], tokenizer: tokenizers.Tokenizer, max_characters: int) -> tuple[list[str], list[str]]:
    """Returns the most frequent characters, sorted, and the `##` form of those that can be inside a word."""
    counts = np.zeros(0x110000, np.int64)
    for piece in pieces:
        here = np.bincount(np.frombuffer(piece.encode("utf-32-le"), "<u4"))
        counts[: len(here)] += here
    frequent = sorted(np.flatnonzero(counts).tolist(), key=lambda point: (-counts[point], point))
    characters = map(chr, frequent)
    # The normalizer drops control characters and unifies blanks.
    printed = [c for c in characters if tokenizer.normalizer.normalize_str(c).strip() == c]
    alphabet = sorted(printed[:max_characters])
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    normalize = tokenizer.normalizer.normalize_str
    return alphabet, [f"##{c}" for c in alphabet if len(split(normalize(f"a{c}a"))) == 1]


def _check_size(kind: str, vocab_size: int, smallest: int) -> None:
    if vocab_size < smallest:
        raise UserError(
            f"data.tokenizer={kind}:{vocab_size} is too small for its special tokens and its alphabet: "
            f"expected {kind}:{smallest} or more."
        )
