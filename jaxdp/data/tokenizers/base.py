"""What every kind of tokenizer offers."""

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdp.atomic_files import write_atomically
from jaxdp.errors import UserError

END_OF_TEXT = "<|endoftext|>"
REPLACEMENT = "\ufffd"  # shown for what is no character

ENCODING_FORMAT = 1
"""Number of the ids that a tokenizer.json gives to a text; part of the keys of the cache.

To be raised when a change of `data/tokenizers` encodes some text differently with the same tokenizer.json.
"""

ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false"}
"""The environment of a process that is one of several: the library then encodes in the calling
thread. It is read at each call, so `os.environ.update(ONE_THREAD)` may come at any time; without
it every process has as many threads as there are cores. Nothing here sets it."""


class Tokenizer(ABC):
    """What training, evaluation and generation ask of a tokenizer.

    A special token is an id that no text encodes to: the characters of its name
    are characters like others. Tokenizers travel to other processes by their JSON.

    Attributes:
        vocab_size: ids are in range(vocab_size).
        eos_id: stands between documents.
        special_ids: id of each special token by name, end of text among them.
        remarks: what a person should know about it beyond `describe`'s first words.
    """

    vocab_size: int
    eos_id: int
    special_ids: Mapping[str, int]
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text: `[num_tokens] int32`, without special tokens.

        Raises:
            UserError: the text holds what the vocabulary cannot express.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """What `encode` gives for each text, sooner where the library has threads."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: np.ndarray) -> str:
        """The text of `[n]` ids: special tokens are left out, U+FFFD stands for what is no text."""

    def decode_after(self, before: np.ndarray, ids: np.ndarray) -> str:
        """Decodes tokens that continue others: the text that they add.

        Tokens of a word alone do not tell whether a blank stands before it, and a
        character may consist of tokens from both sides.

        Args:
            before: Ids of the text that is continued: `[n]`.
            ids: Ids of the continuation: `[m]`.
        """
        first, both = self.decode(before), self.decode(np.concatenate([before, ids]))
        pairs = itertools.zip_longest(first, both)
        common = next((number for number, (old, new) in enumerate(pairs) if old != new), len(first))
        return both[common:]

    @abstractmethod
    def token_bytes(self) -> np.ndarray | None:
        """UTF-8 bytes that each id stands for, 0 for special tokens: `[vocab_size] int32`.

        None where the text does not come back byte for byte: then no bits per byte.
        """

    def word_boundaries(self) -> np.ndarray | None:
        """Whether a word begins with each token, and whether one ends with it: `[vocab_size, 2] bool`.

        A word is a run of letters, digits and underscores, with the blank before it;
        any other character is one by itself, and so is a special token. None where
        tokens do not tell.
        """
        return None

    @abstractmethod
    def to_json(self) -> str:
        """The content of a `tokenizer.json` that Hugging Face `tokenizers` loads."""

    @abstractmethod
    def _kind(self) -> str:
        """The kind in words, for `describe`."""

    def describe(self) -> str:
        """Kind, vocabulary size and remarks, for a report."""
        return "; ".join([f"{self._kind()} of {self.vocab_size} tokens", *self.remarks])

    def special_id(self, name: str) -> int:
        """The id of a special token.

        Raises:
            UserError: the tokenizer was made without it.
        """
        if name not in self.special_ids:
            raise UserError(
                f"The tokenizer has no special token {name}, only {', '.join(self.special_ids)}: use the "
                "tokenizer of a run of the same task, or start a new run."
            )
        return self.special_ids[name]

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_json()`; the file is whole or absent."""
        write_atomically(Path(path), self.to_json())


def special_names(special_tokens: Iterable[str]) -> tuple[str, ...]:
    """End of text, then each other name once, in order."""
    return tuple(dict.fromkeys((END_OF_TEXT, *special_tokens)))


def boundaries(text: str) -> tuple[bool, bool]:
    """Whether a word begins with a token of this text, and whether one ends with it."""
    first, last = (character == "_" or character.isalnum() for character in (text[0], text[-1]))
    return not first, not last and not text[-1].isspace()
