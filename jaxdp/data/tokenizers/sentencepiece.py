"""SentencePiece model files (`spiece.model`, `sentencepiece.bpe.model`): pieces with scores, and settings, without the library.

Format: the message ModelProto of https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdp.errors import UserError

UNIGRAM, BPE = 1, 2
"""Values of TrainerSpec.model_type."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Values of SentencePiece.type."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protocol buffers."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """Piece of a vocabulary: text, logarithm of its probability, and kind."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """Content of a model file.

    Attributes:
        pieces: Pieces in the order of their ids.
        algorithm: `UNIGRAM`, `BPE` or another.
        unk_id: Id of the piece for unknown characters.
        byte_fallback: Whether unknown characters become bytes.
        charsmap: Compiled normalisation rules; empty: none.
        adds_prefix: Whether a blank is put before a text.
        removes_blanks: Whether blanks at both ends, and repeated ones, are removed.
    """

    pieces: tuple[Piece, ...]
    algorithm: int = UNIGRAM
    unk_id: int = 0
    byte_fallback: bool = False
    charsmap: bytes = b""
    adds_prefix: bool = True
    removes_blanks: bool = True


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Reads a model file.

    Raises:
        UserError: It is none.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        trainer = dict(_fields(b"".join(value for number, value in fields if number == 2)))
        normalizer = dict(_fields(b"".join(value for number, value in fields if number == 3)))
        pieces = tuple(_piece(value) for number, value in fields if number == 1)
        if not pieces:
            raise ValueError("it has no pieces")
        return SentencePieceModel(
            pieces,
            trainer.get(3, UNIGRAM),
            trainer.get(40, 0),
            bool(trainer.get(35, False)),
            normalizer.get(2, b""),
            bool(normalizer.get(3, True)),
            bool(normalizer.get(4, True)),
        )
    except (ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        raise UserError(f"{path} is not a SentencePiece model ({error!r}); download it again.") from error


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    return Piece(fields[1].decode("utf-8"), struct.unpack("<f", fields.get(2, bytes(4)))[0], fields.get(3, NORMAL))


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yields number and value of each field of a message: an integer, or the bytes of any other type."""
    place = 0

    def varint() -> int:
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while place < len(content):
        key = varint()
        if (wire := key & 7) == _VARINT:
            yield key >> 3, varint()
            continue
        size = varint() if wire == _BYTES else {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if size < 0 or place + size > len(content):
            raise ValueError(f"its byte {place} belongs to no field")
        yield key >> 3, content[place : place + size]
        place += size
