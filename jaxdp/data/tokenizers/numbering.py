"""Gaps in the ids of a tokenizer.json, which are filled with unused special tokens.

The library numbers added tokens without gaps after the entries of the model, so for a file with gaps it would assign
other ids than the file.
"""

from typing import Any

from jaxdp.errors import UserError

MAX_GAPS = 10_000
"""Maximum number of unused ids of a file with fewer tokens; each adds a row to the embedding of the model."""


def unused_name(number: int) -> str:
    """Returns the name of the special token that fills an id."""
    return f"<|unused_{number}|>"


def fill_gaps(content: dict[str, Any], origin: str) -> int:
    """Gives every id below the largest a token, in place.

    Args:
        content: Parsed tokenizer.json.
        origin: Path of the file, for messages.

    Returns:
        Number of ids that were filled.

    Raises:
        UserError: There are more gaps than tokens, and more than MAX_GAPS.
    """
    vocab, added = content["model"]["vocab"], content.setdefault("added_tokens", [])
    model_ids = set(vocab.values()) if isinstance(vocab, dict) else set(range(len(vocab)))
    taken = model_ids | {token["id"] for token in added}
    size = max(taken, default=-1) + 1
    num_gaps = size - len(taken)
    if num_gaps > max(MAX_GAPS, len(taken)):
        raise UserError(
            f"{origin} has {len(taken):,} tokens with ids up to {size - 1:,}; expected ids with few gaps: correct the file."
        )
    if not num_gaps:
        return 0
    gaps = [number for number in range(size) if number not in taken]
    if isinstance(vocab, dict):
        names = {token["id"]: token["content"] for token in added} | {number: unused_name(number) for number in gaps}
        inside = max(model_ids, default=-1)  # ids below it must be entries of the model
        vocab.update({name: number for number, name in names.items() if number < inside and number not in model_ids})
    added += [
        {
            "id": number, "content": unused_name(number), "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for number in gaps
    ]  # fmt: skip
    added.sort(key=lambda token: token["id"])
    return num_gaps
