"""Long texts in pieces, and a bounded sample of many texts."""

import re
from collections.abc import Iterable

from jaxdp.errors import UserError

PIECE_LENGTH = 1 << 16
"""Characters after which a piece ends at the next chance. The library keeps about a hundred bytes a
character while it encodes, and is a third slower on texts of megabytes."""

LONGEST_PIECE = 1 << 20
"""Characters of a piece of the sample, where there is no blank to cut at."""

SAMPLE_BYTES = 200_000_000
"""What a vocabulary is trained on at most. The library counts pairs in 32 bits, which 2 GB could
overflow; a vocabulary hardly changes beyond 100 MB."""

_CUT = re.compile(r"(?<=\S)[ \t\n\r]")
"""A blank after a character that is none. What Python takes for blank includes what the library
does, so the character in front ends a word for both."""


def cut_at_blanks(text: str, piece_length: int = PIECE_LENGTH) -> list[str]:
    """A text in pieces that GPT-2's and BERT's pre-tokenizers split as they split the whole.

    A piece ends in front of a blank that follows a non-blank. Both split there:
    GPT-2's puts a blank before a word or among blanks, never behind a word, and
    what it does with blanks depends only on what follows them; BERT's drops them.

    Args:
        text: any length.
        piece_length: characters that each piece but the last has at least; where no
            blank comes, the piece goes on.

    Returns:
        One or more pieces; joined they are the text.
    """
    pieces, start = [], 0
    while found := _CUT.search(text, start + max(piece_length, 1)):
        pieces.append(text[start : found.start()])
        start = found.start()
    return [*pieces, text[start:]]


def sample_pieces(texts: Iterable[str], num_bytes: int = SAMPLE_BYTES) -> list[str]:
    """Pieces of all texts if they fit, else every 2nd, 4th, 8th, ... piece of them.

    So the sample is spread evenly over the data, however long that is, and is a
    function of the texts and their order alone. All texts are read, few are held.

    Args:
        texts: read once, to the end.
        num_bytes: of UTF-8 that the sample may have.

    Raises:
        UserError: a text with a character that is none; see `not_unicode`.
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
        for start in range(0, len(piece), LONGEST_PIECE):
            yield piece[start : start + LONGEST_PIECE]


def not_unicode(text: str) -> UserError:
    """The sentence for a text that UTF-8 cannot write: it holds half a surrogate pair."""
    position = next(i for i, character in enumerate(text) if 0xD800 <= ord(character) < 0xE000)
    return UserError(
        f"Character {text[position]!r} at position {position} is half of a surrogate pair, no Unicode "
        "character: write the text in UTF-8, or leave it out."
    )
