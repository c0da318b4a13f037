"""Layers of the reference forward passes, in NumPy float64."""

from collections.abc import Callable

import numpy as np
from scipy.special import erf

Read = Callable[[str], np.ndarray]
"""Function from the name of a tensor to its values in float64."""


def linear(x: np.ndarray, read: Read, name: str, *, bias: bool = True) -> np.ndarray:
    """Applies `torch.nn.Linear`, whose weight is `[out, in]`."""
    y = x @ read(f"{name}.weight").T
    return y + read(f"{name}.bias") if bias else y


def layer_norm(x: np.ndarray, read: Read, name: str, epsilon: float, *, bias: bool = True) -> np.ndarray:
    """Applies LayerNorm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * read(f"{name}.weight")
    return y + read(f"{name}.bias") if bias else y


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """Applies RMSNorm over the last axis."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def softmax(x: np.ndarray) -> np.ndarray:
    """Applies softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """Applies the tanh approximation of GELU."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
    """Applies SiLU (swish)."""
    return x / (1 + np.exp(-x))


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "silu": silu,
    "swish": silu,
    "tanh": np.tanh,
}
"""Activations by their name in config.json."""


def heads(x: np.ndarray, num_heads: int) -> np.ndarray:
    """Splits `[batch, length, heads * head_dim]` into `[batch, heads, length, head_dim]`."""
    batch, length, width = x.shape
    return x.reshape(batch, length, num_heads, width // num_heads).transpose(0, 2, 1, 3)


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    allowed: np.ndarray,
    *,
    scale: float,
    bias: np.ndarray | float = 0.0,
    softcap: float = 0.0,
) -> np.ndarray:
    """Attends with `[batch, heads, length, head_dim]` and joins the heads: `[batch, length, heads * head_dim]`.

    Args:
        query: Queries.
        key: Keys, of as many heads or a divisor of them.
        value: Values, as the keys.
        allowed: True where attention is allowed, `[batch or 1, 1, query_length, key_length]`.
        scale: Factor of the scores.
        bias: Added to the scores.
        softcap: Bound of the scores; 0: none.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = np.repeat(key, groups, axis=1), np.repeat(value, groups, axis=1)
    scores = query @ key.transpose(0, 1, 3, 2) * scale
    scores = softcap * np.tanh(scores / softcap) if softcap else scores
    allowed = allowed | ~allowed.any(-1, keepdims=True)  # padding that sees no key: finite, and of no effect
    joined = (softmax(np.where(allowed, scores + bias, -np.inf)) @ value).transpose(0, 2, 1, 3)
    return joined.reshape(*joined.shape[:2], -1)
