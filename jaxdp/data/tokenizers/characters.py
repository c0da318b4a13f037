"""Byte and character tokenizers, without merges.

Encoding and decoding are NumPy operations on whole texts. The tokenizer.json is for other programs, and gives them the
same ids.
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
    """Tokenizer whose ids are the bytes of the UTF-8 text; special tokens follow from 256 on.

    Args:
        special_tokens: Names of special tokens in addition to end of text, which is 256.
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
        """Encodes a text, see `Tokenizer.encode`."""
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """Decodes ids, see `Tokenizer.decode`."""
        ids = np.asarray(ids, np.int64)
        ids = ids[(ids < 256) | (ids >= self.vocab_size)]
        ids = np.where((ids >= 0) & (ids < 256), ids, NOT_UTF8)
        return ids.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def token_bytes(self) -> np.ndarray:
        """Returns the bytes of each id, see `Tokenizer.token_bytes`."""
        return np.repeat(np.array([1, 0], np.int32), [256, len(self.special_ids)])

    def word_boundaries(self) -> np.ndarray:
        # A byte above 127 is part of a character, usually a letter.
        """Returns the word boundaries of each id, see `Tokenizer.word_boundaries`."""
        texts = ["a" if byte > 127 else chr(byte) for byte in range(256)]
        return np.array([*map(boundaries, texts), *[(True, True)] * len(self.special_ids)])

    def to_json(self) -> str:
        """Returns the content of a tokenizer.json."""
        tokenizer = _unmerged(map(byte_symbol, range(256)), self.special_ids)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer.to_str(pretty=True)

    def _kind(self) -> str:
        return "bytes"


class CharTokenizer(Tokenizer):
    """Tokenizer whose ids are the characters of a given set; special tokens have the last ids.

    Args:
        characters: Distinct characters, in the order of their ids.
        special_tokens: Names of special tokens in addition to end of text, which is the first of them.
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
        """Builds a tokenizer of the characters that occur in some texts, sorted by code point."""
        occurs = np.zeros(0x110000, bool)
        for text in texts:
            occurs[_code_points(text)] = True
        return cls("".join(map(chr, np.flatnonzero(occurs))), special_tokens)

    def encode(self, text: str) -> np.ndarray:
        """Encodes a text, see `Tokenizer.encode`."""
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
        """Decodes ids, see `Tokenizer.decode`."""
        ids = np.asarray(ids, np.int64)
        ids = ids[(ids < self.eos_id) | (ids >= self.vocab_size)]
        known = (ids >= 0) & (ids < self.eos_id)
        code_points = np.full(len(ids), ord(REPLACEMENT), "<u4")
        code_points[known] = self._code_points[ids[known]]
        return code_points.tobytes().decode("utf-32-le", "replace")

    def token_bytes(self) -> np.ndarray:
        """Returns the bytes of each id, see `Tokenizer.token_bytes`."""
        points = self._code_points
        sizes = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int32) + (points >= 0x10000)
        return np.append(sizes, np.zeros(len(self.special_ids))).astype(np.int32)

    def word_boundaries(self) -> np.ndarray:
        """Returns the word boundaries of each id, see `Tokenizer.word_boundaries`."""
        characters = map(chr, self._code_points)
        return np.array([*map(boundaries, characters), *[(True, True)] * len(self.special_ids)])

    def to_json(self) -> str:
        """Returns the content of a tokenizer.json."""
        tokenizer = _unmerged(map(chr, self._code_points), self.special_ids)
        tokenizer.decoder = decoders.Fuse()
        return tokenizer.to_str(pretty=True)

    def _kind(self) -> str:
        return "characters"


def without_merges(theirs: tokenizers.Tokenizer, special_tokens: Iterable[str] = ()) -> Tokenizer | None:
    """Rebuilds the byte or character tokenizer that the library has read from its file.

    Args:
        theirs: Tokenizer of the library.
        special_tokens: Names of special tokens to add to those of the file.

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
    """Returns the printable character of a byte in byte-level vocabularies.

    Source: `bytes_to_unicode` of GPT-2's encoder: a byte that Latin-1 prints is
    itself, the others are U+0100, U+0101, ... in their order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + byte - sum(other < byte for other in printable))


def _code_points(text: str) -> np.ndarray:
    """Returns the code points of a text: `[num_characters] uint32`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _unmerged(symbols: Iterable[str], names: Iterable[str]) -> tokenizers.Tokenizer:
    """Builds a byte pair encoding without merges: each symbol by itself, then the special tokens."""
    vocab = {symbol: i for i, symbol in enumerate([*symbols, *names])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(list(names))
    return tokenizer
