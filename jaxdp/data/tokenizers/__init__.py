"""Text to token ids and back, kept as a Hugging Face `tokenizer.json`.

Encoding and decoding here are NumPy over whole texts; the file serves other
programs, and gives them the same ids.

Departs: end of text is an id that no text encodes to. `tokenizers` would read
the characters `<|endoftext|>` in a text as that id; here they are characters.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from jaxdp.errors import UserError

END_OF_TEXT = "<|endoftext|>"
REPLACEMENT = 0xFFFD  # U+FFFD, shown for what is no character
NOT_UTF8 = 0xFF  # a byte that UTF-8 never uses


class Tokenizer(ABC):
    """What training, evaluation and generation ask of a tokenizer.

    Attributes:
        vocab_size: ids are in range(vocab_size).
        end_of_text_id: stands between documents.
    """

    vocab_size: int
    end_of_text_id: int

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text: `[num_tokens] int32`, without end of text.

        Raises:
            UserError: the text holds what the vocabulary cannot express.
        """

    @abstractmethod
    def decode(self, ids: np.ndarray) -> str:
        """The text of `[n]` ids: end of text is left out, U+FFFD stands for what is no text."""

    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, 0 for end of text: `[vocab_size] int32`."""

    @abstractmethod
    def to_json(self) -> str:
        """The content of a `tokenizer.json` that Hugging Face `tokenizers` loads."""

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_json()`; the file is whole or absent."""
        partial = Path(f"{path}.partial")
        partial.write_text(self.to_json(), encoding="utf-8")
        partial.replace(path)


class ByteTokenizer(Tokenizer):
    """Each byte of the UTF-8 text is its own id; 256 is end of text."""

    vocab_size = 257
    end_of_text_id = 256

    def encode(self, text: str) -> np.ndarray:
        # A prompt typed in another encoding arrives with lone surrogates.
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids, np.int64)
        ids = ids[ids != self.end_of_text_id]
        ids = np.where((ids >= 0) & (ids < 256), ids, NOT_UTF8)
        return ids.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def token_bytes(self) -> np.ndarray:
        return np.append(np.ones(256, np.int32), np.int32(0))

    def to_json(self) -> str:
        tokenizer = _unmerged([_byte_symbol(byte) for byte in range(256)])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer.to_str(pretty=True)


class CharTokenizer(Tokenizer):
    """Each character of a given set is its own id; the last id is end of text.

    Args:
        characters: distinct; the order gives the ids.
    """

    def __init__(self, characters: str):
        self._code_points = _code_points(characters)
        self.end_of_text_id = len(characters)
        self.vocab_size = len(characters) + 1
        self._id_of = np.full(0x110000, -1, np.int32)
        self._id_of[self._code_points] = np.arange(len(characters))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "CharTokenizer":
        """The characters that occur in some texts, sorted by code point."""
        occurs = np.zeros(0x110000, bool)
        for text in texts:
            occurs[_code_points(text)] = True
        return cls("".join(map(chr, np.flatnonzero(occurs))))

    def encode(self, text: str) -> np.ndarray:
        ids = self._id_of[_code_points(text)]
        if ids.size and ids.min() < 0:
            position = int(np.argmax(ids < 0))
            raise UserError(
                f"Character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} "
                f"is not among the {self.end_of_text_id} characters of the vocabulary: leave it "
                "out, or train with data.tokenizer=byte, which knows every character."
            )
        return ids

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids, np.int64)
        ids = ids[ids != self.end_of_text_id]
        known = (ids >= 0) & (ids < self.end_of_text_id)
        code_points = np.full(len(ids), REPLACEMENT, "<u4")
        code_points[known] = self._code_points[ids[known]]
        return code_points.tobytes().decode("utf-32-le", "replace")

    def token_bytes(self) -> np.ndarray:
        points = self._code_points
        sizes = 1 + (points >= 0x80) + (points >= 0x800).astype(np.int32) + (points >= 0x10000)
        return np.append(sizes, 0).astype(np.int32)

    def to_json(self) -> str:
        tokenizer = _unmerged(map(chr, self._code_points))
        tokenizer.decoder = decoders.Fuse()
        return tokenizer.to_str(pretty=True)


def make_tokenizer(name: str, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of `data.tokenizer`.

    Args:
        name: `byte` or `char`.
        texts: all documents, training and evaluation, for a vocabulary that is
            made from them.

    Raises:
        UserError: an unknown name.
    """
    if name == "byte":
        return ByteTokenizer()
    if name == "char":
        return CharTokenizer.from_texts(texts)
    raise UserError(f"data.tokenizer={name!r} is unknown: expected byte or char.")


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer that a file written by `Tokenizer.save` describes.

    Raises:
        UserError: no such file, or a tokenizer of another kind.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"The tokenizer {path} cannot be read ({error.strerror}).") from error
    try:
        content = json.loads(text)
        vocab = content["model"]["vocab"]
        symbols = sorted(vocab, key=vocab.get)
        unmerged = content["model"]["merges"] == [] and symbols.pop() == END_OF_TEXT
        if unmerged and content["pre_tokenizer"] is None and max(map(len, symbols)) == 1:
            return CharTokenizer("".join(symbols))
        if unmerged and symbols == [_byte_symbol(byte) for byte in range(256)]:
            return ByteTokenizer()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is not a tokenizer.json: {error!r}.") from error
    raise UserError(f"{path} is not a byte or char tokenizer, and no other kind is supported.")


def _code_points(text: str) -> np.ndarray:
    """`[num_characters] uint32`."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _byte_symbol(byte: int) -> str:
    """The printable character that stands for a byte in byte-level vocabularies.

    Source: `bytes_to_unicode` of GPT-2's encoder: a byte that Latin-1 prints is
    itself, the others are U+0100, U+0101, ... in their order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + byte - sum(other < byte for other in printable))


def _unmerged(symbols: Iterable[str]) -> tokenizers.Tokenizer:
    """A byte pair encoding without pairs: each symbol by itself, then end of text."""
    vocab = {symbol: i for i, symbol in enumerate([*symbols, END_OF_TEXT])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
