"""Tokenizers without merges: a byte or a character is a token.

Encoding and decoding are NumPy over whole texts; the file serves other programs,
and gives them the same ids.
"""

from collections.abc import Iterable

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxdp.data.tokenizers.base import (
    END_OF_TEXT,
    REPLACEMENT,
    Tokenizer,
    boundaries,
    special_names,
)
from jaxdp.errors import UserError

NOT_UTF8 = 0xFF  # a byte that UTF-8 never uses


class ByteTokenizer(Tokenizer):
    """Each byte of the UTF-8 text is its own id; special tokens follow from 256 on.

    Args:
        special_tokens: names beside end of text, which is 256.
    """

    eos_id = 256

    def __init__(self, special_tokens: Iterable[str] = ()):
        names = special_names(special_tokens)
        self.special_ids = {name: 256 + i for i, name in enumerate(names)}
        self.vocab_size = 256 + len(names)

    def __reduce__(self):
        return ByteTokenizer, (tuple(self.special_ids),)

    def encode(self, text: str) -> np.ndarray:
        # A prompt typed in another encoding arrives with lone surrogates.
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids, np.int64)
        ids = ids[(ids < 256) | (ids >= self.vocab_size)]
        ids = np.where((ids >= 0) & (ids < 256), ids, NOT_UTF8)
        return ids.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def token_bytes(self) -> np.ndarray:
        return np.repeat(np.array([1, 0], np.int32), [256, len(self.special_ids)])

    def word_boundaries(self) -> np.ndarray:
        # A byte above 127 is a part of some character, a letter most often.
        texts = ["a" if byte > 127 else chr(byte) for byte in range(256)]
        return np.array([*map(boundaries, texts), *[(True, True)] * len(self.special_ids)])

    def to_json(self) -> str:
        tokenizer = _unmerged(map(byte_symbol, range(256)), self.special_ids)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer.to_str(pretty=True)

    def _kind(self) -> str:
        return "bytes"


class CharTokenizer(Tokenizer):
    """Each character of a given set is its own id; special tokens have the last ids.

    Args:
        characters: distinct; the order gives the ids.
        special_tokens: names beside end of text, which is the first of them.
    """

    def __init__(self, characters: str, special_tokens: Iterable[str] = ()):
        names = special_names(special_tokens)
        self._code_points = _code_points(characters)
        self.eos_id = len(characters)
        self.special_ids = {name: len(characters) + i for i, name in enumerate(names)}
        self.vocab_size = len(characters) + len(names)
        self._id_of = np.full(0x110000, -1, np.int32)
        self._id_of[self._code_points] = np.arange(len(characters))

    def __reduce__(self):
        characters = self._code_points.tobytes().decode("utf-32-le", "surrogatepass")
        return CharTokenizer, (characters, tuple(self.special_ids))

    @classmethod
    def from_texts(cls, texts: Iterable[str], special_tokens: Iterable[str] = ()) -> "CharTokenizer":
        """The characters that occur in some texts, sorted by code point."""
        occurs = np.zeros(0x110000, bool)
        for text in texts:
            occurs[_code_points(text)] = True
        return cls("".join(map(chr, np.flatnonzero(occurs))), special_tokens)

    def encode(self, text: str) -> np.ndarray:
        ids = self._id_of[_code_points(text)]
        if ids.size and ids.min() < 0:
            position = int(np.argmax(ids < 0))
            raise UserError(
                f"Character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} "
                f"is not among the {self.eos_id} characters of the vocabulary: leave it "
                "out, or train with data.tokenizer=byte, which knows every character."
            )
        return ids

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids, np.int64)
        ids = ids[(ids < self.eos_id) | (ids >= self.vocab_size)]
        known = (ids >= 0) & (ids < self.eos_id)
        code_points = np.full(len(ids), ord(REPLACEMENT), "<u4")
        code_points[known] = self._code_points[ids[known]]
        return code_points.tobytes().decode("utf-32-le", "replace")

    def token_bytes(self) -> np.ndarray:
        points = self._code_points
        sizes = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int32) + (points >= 0x10000)
        return np.append(sizes, np.zeros(len(self.special_ids))).astype(np.int32)

    def word_boundaries(self) -> np.ndarray:
        characters = map(chr, self._code_points)
        return np.array([*map(boundaries, characters), *[(True, True)] * len(self.special_ids)])

    def to_json(self) -> str:
        tokenizer = _unmerged(map(chr, self._code_points), self.special_ids)
        tokenizer.decoder = decoders.Fuse()
        return tokenizer.to_str(pretty=True)

    def _kind(self) -> str:
        return "characters"


def without_merges(theirs: tokenizers.Tokenizer, special_tokens: Iterable[str] = ()) -> Tokenizer | None:
    """The byte or character tokenizer that the library read back from its file.

    Args:
        theirs: what the library made of a file.
        special_tokens: names that it should have beside those of the file.

    Returns:
        None for a file that neither of the two classes wrote.
    """
    ids = theirs.get_vocab()
    symbols = sorted(ids, key=ids.__getitem__)
    names = [token.content for _, token in sorted(theirs.get_added_tokens_decoder().items())]
    characters = "".join(symbols[: len(symbols) - len(names)])
    if names[:1] != [END_OF_TEXT] or len(characters) + len(names) != len(symbols):
        return None
    arguments = {ByteTokenizer: (), CharTokenizer: (characters,)}
    for kind, first in arguments.items():
        if kind(*first, names).to_json() == theirs.to_str(pretty=True):
            return kind(*first, (*names, *special_tokens))
    return None


def byte_symbol(byte: int) -> str:
    """The printable character that stands for a byte in byte-level vocabularies.

    Source: `bytes_to_unicode` of GPT-2's encoder: a byte that Latin-1 prints is
    itself, the others are U+0100, U+0101, ... in their order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + byte - sum(other < byte for other in printable))


def _code_points(text: str) -> np.ndarray:
    """`[num_characters] uint32`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _unmerged(symbols: Iterable[str], names: Iterable[str]) -> tokenizers.Tokenizer:
    """A byte pair encoding without pairs: each symbol by itself, then the special tokens."""
    vocab = {symbol: i for i, symbol in enumerate([*symbols, *names])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(list(names))
    return tokenizer
