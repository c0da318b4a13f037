"""Tokenizer interface."""

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdp.atomic_files import write_atomically
from jaxdp.errors import UserError

END_OF_TEXT = "<|endoftext|>"
REPLACEMENT = "\ufffd"  # replaces invalid bytes

ENCODING_FORMAT = 1
"""Format number of the encoding; part of the cache keys.

Raise it when a change of `data/tokenizers` encodes some text differently with the same tokenizer.json.
"""

ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false"}
"""The environment of a process that is one of several: the library then encodes in the calling
thread. It is read at each call, so `os.environ.update(ONE_THREAD)` may come at any time; without
it every process has as many threads as there are cores. Nothing here sets it."""


class Tokenizer(ABC):
    """Tokenizer as training, evaluation and generation use it.

    A special token is an id that no text encodes to: the characters of its name are ordinary characters. Tokenizers are sent
    to other processes as JSON.

    Attributes:
        vocab_size: Upper bound of the ids, which are in range(vocab_size).
        eos_id: Id of the end-of-text token, which separates documents.
        special_ids: Id of each special token by name, end of text included.
        remarks: Further facts for a report, see `describe`.
    """

    vocab_size: int
    eos_id: int
    special_ids: Mapping[str, int]
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Encodes a text as token ids, `[num_tokens] int32`, without special tokens.

        Raises:
            UserError: The vocabulary cannot represent the text.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes several texts like `encode`, faster if the library has threads."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: np.ndarray) -> str:
        """Decodes `[n]` ids to text, without special tokens and with U+FFFD for invalid bytes."""

    def decode_after(self, before: np.ndarray, ids: np.ndarray) -> str:
        """Decodes tokens that continue others, and returns the text that they add.

        The tokens of a word alone do not determine whether a blank precedes it, and a character may consist of tokens from
        both sides.

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
        """Returns the number of UTF-8 bytes of each id, 0 for special tokens: `[vocab_size] int32`.

        None if decoding does not restore every byte of a text; bits per byte are then undefined.
        """

    def word_boundaries(self) -> np.ndarray | None:
        """Returns for each token if a word begins with it, and if one ends with it: `[vocab_size, 2] bool`.

        A word is a run of letters, digits and underscores, with the blank before it. Any other character is a word of its own,
        and so is a special token. None if tokens do not determine words.
        """
        return None

    @abstractmethod
    def to_json(self) -> str:
        """Returns the content of a `tokenizer.json` that Hugging Face `tokenizers` loads."""

    @abstractmethod
    def _kind(self) -> str:
        """Returns the kind in words, for `describe`."""

    def describe(self) -> str:
        """Returns kind, vocabulary size and remarks, for a report."""
        return "; ".join([f"{self._kind()} of {self.vocab_size} tokens", *self.remarks])

    def special_id(self, name: str) -> int:
        """Returns the id of a special token.

        Raises:
            UserError: The tokenizer was made without it.
        """
        if name not in self.special_ids:
            raise UserError(
                f"The tokenizer has no special token {name}, only {', '.join(self.special_ids)}: use the "
                "tokenizer of a run of the same task, or start a new run."
            )
        return self.special_ids[name]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json()` atomically."""
        write_atomically(Path(path), self.to_json())


def special_names(special_tokens: Iterable[str]) -> tuple[str, ...]:
    """Returns end of text, then each other name once, in order."""
    return tuple(dict.fromkeys((END_OF_TEXT, *special_tokens)))


def boundaries(text: str) -> tuple[bool, bool]:
    """Returns if a word begins with a token of this text, and if one ends with it."""
    first, last = (character == "_" or character.isalnum() for character in (text[0], text[-1]))
    return not first, not last and not text[-1].isspace()
