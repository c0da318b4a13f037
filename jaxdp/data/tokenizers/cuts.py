"""Long texts split into pieces, and a bounded sample of many texts."""

import re
from collections.abc import Iterable

from jaxdp.errors import UserError

PIECE_LENGTH = 1 << 16
"""Characters after which a piece ends at the next blank. The library keeps about a hundred bytes per
character while it encodes, and is a third slower on texts of megabytes."""

MAX_SAMPLE_PIECE = 1 << 20
"""Maximum number of characters of a piece of the sample, if it has no blank to cut at."""

SAMPLE_BYTES = 200_000_000
"""Maximum size of the text that a vocabulary is trained on. The library counts pairs in 32 bits, which 2 GB could
overflow; a vocabulary hardly changes beyond 100 MB."""

_CUT = re.compile(r"(?<=\S)[ \t\n\r]")
"""Blank after a non-blank. Python's class of blanks includes that of the library, so the character before
ends a word for both."""


def cut_at_blanks(text: str, piece_length: int = PIECE_LENGTH) -> list[str]:
    """Splits a text into pieces that the pre-tokenizers of GPT-2 and BERT split like the whole text.

    A piece ends before a blank that follows a non-blank. Both pre-tokenizers split there: GPT-2's puts a blank before a word or
    among blanks, never after a word, and treats blanks by what follows them; BERT's drops them.

    Args:
        text: Text of any length.
        piece_length: Minimum number of characters of each piece except the last; a piece continues until the next blank.

    Returns:
        One or more pieces; joined they are the text.
    """
    pieces, start = [], 0
    while found := _CUT.search(text, start + max(piece_length, 1)):
        pieces.append(text[start : found.start()])
        start = found.start()
    return [*pieces, text[start:]]


def sample_pieces(texts: Iterable[str], num_bytes: int = SAMPLE_BYTES) -> list[str]:
    """Samples pieces of texts: all of them if they fit, else every 2nd, 4th, 8th, ... piece.

    The sample is spread evenly over the data and is a function of the texts and their order alone. All texts are read, few
    are held in memory.

    Args:
        texts: Texts, read once, to the end.
        num_bytes: Maximum size of the sample in bytes of UTF-8.

    Raises:
        UserError: A text has an invalid character, see `not_unicode`.
    """
    kept, sizes = [], []
    total, number, stride = 0, 0, 1
    for text in texts:
        for piece in _sample_pieces_of(text):
            if number % stride == 0:
                try:
                    sizes.append(len(piece.encode()))
                except UnicodeEncodeError as error:
                    raise not_unicode(text) from error
                kept.append(piece)
                total += sizes[-1]
            number += 1
            while total > num_bytes and len(kept) > 1:
                kept, sizes, stride = kept[::2], sizes[::2], stride * 2
                total = sum(sizes)
    return kept


def _sample_pieces_of(text: str) -> Iterable[str]:
    for piece in cut_at_blanks(text):
        for start in range(0, len(piece), MAX_SAMPLE_PIECE):
            yield piece[start : start + MAX_SAMPLE_PIECE]


def not_unicode(text: str) -> UserError:
    """Returns the error for a text with half a surrogate pair, which UTF-8 cannot encode."""
    position = next(i for i, character in enumerate(text) if 0xD800 <= ord(character) < 0xE000)
    return UserError(
        f"Character {text[position]!r} at position {position} is half of a surrogate pair, no Unicode "
        "character: write the text in UTF-8, or leave it out."
    )
