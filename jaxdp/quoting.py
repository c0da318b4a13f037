"""Quotation of data in messages: values and lists of names, shortened to a maximum length."""

from collections.abc import Collection
from typing import Any

MAX_CHARACTERS = 80
"""Maximum number of characters of one quoted value."""

MAX_NAMES = 12
"""Maximum number of names of a list."""


def quoted(value: Any, max_characters: int = MAX_CHARACTERS) -> str:
    """Returns the `repr` of a value; of a long one the first characters and its length.

    Args:
        value: Text, number, list or object from the data.
        max_characters: Length of the text above which it is shortened.
    """
    # Python refuses to convert an integer of more than 4300 digits to decimal.
    return shortened(f"a whole number of {value.bit_length()} bits" if _is_huge(value) else repr(value), max_characters)


def shortened(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Returns a text as it is; of a long one the first characters and its length."""
    if len(text) <= max_characters:
        return text
    return f"{text[:max_characters]}... ({len(text):,} characters)"


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > 10_000


def quoted_names(names: Collection[Any], max_names: int = MAX_NAMES) -> str:
    """Returns names in quotes with commas; of many, the first ones and the number of the others.

    Args:
        names: Names of columns or labels, in the order in which they are shown.
        max_names: Number of names above which the list is shortened.
    """
    shown = ", ".join(quoted(name) for name, _ in zip(names, range(max_names), strict=False))
    return shown if len(names) <= max_names else f"{shown} and {len(names) - max_names:,} more"
