"""End-of-sequence ids: one, several that each end a text, or none."""

from collections.abc import Sequence
from typing import Any

import numpy as np

EosId = int | tuple[int, ...] | None
"""Id, or ids that each end a text; the first pads texts that have ended. None or (): the model has none."""


def eos_ids_of(eos_id: EosId) -> tuple[int, ...]:
    """Returns all ids that end a text."""
    if eos_id is None:
        return ()
    return tuple(eos_id) if isinstance(eos_id, Sequence) else (eos_id,)  # one id may be traced


def is_eos(tokens: Any, eos_id: EosId) -> Any:
    """Returns which tokens end a text, an array of bool of the same kind and shape."""
    first, *others = eos_ids_of(eos_id) or (-1,)
    ends = tokens == first
    for other in others:
        ends = ends | (tokens == other)
    return ends


def truncate_at_eos(tokens: np.ndarray, eos_id: EosId) -> np.ndarray:
    """Returns the tokens of a generated text `[num_new] int32` before the first eos."""
    ends = np.flatnonzero(is_eos(tokens, eos_id))
    return tokens[: ends[0]] if ends.size else tokens
