"""Windows of attention in config.json: `layer_types` of transformers and the pattern of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.errors import UserError

FULL, SLIDING = "full_attention", "sliding_attention"


def windows_to_model(layer_types: Sequence[str], window: int | None) -> dict[str, Any]:
    """Returns the keys of the model's windows.

    Args:
        layer_types: Kind of each layer.
        window: Number of tokens that a layer with a window sees, the token itself included; None: none.

    Raises:
        UserError: A kind is unknown, or a layer has a window of unknown size.
    """
    unknown = sorted(set(layer_types) - {FULL, SLIDING})
    if unknown:
        raise UserError(f"layer_types={unknown} of config.json is not supported; supported are {FULL} and {SLIDING}.")
    flags = tuple(int(kind == SLIDING) for kind in layer_types)
    if not any(flags):
        return {"attention_window": 0, "attention_window_pattern": ()}
    if not window:
        raise UserError(f"layer_types of config.json has {SLIDING}, but the size of the window is {window!r}.")
    if all(flags):
        return {"attention_window": window, "attention_window_pattern": ()}
    periods = range(1, len(flags) + 1)
    period = next(size for size in periods if all(flag == flags[i % size] for i, flag in enumerate(flags)))
    return {"attention_window": window, "attention_window_pattern": flags[:period]}


def layer_types_of(model: Mapping[str, Any]) -> list[str]:
    """Returns the kind of each layer of a model; the inverse of `windows_to_model`."""
    pattern = tuple(model["attention_window_pattern"]) or (1,)
    has_window = model["attention_window"] > 0
    layers = range(model["num_layers"])
    return [SLIDING if has_window and pattern[layer % len(pattern)] else FULL for layer in layers]
