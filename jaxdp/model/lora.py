"""Low-rank adapters (LoRA) of the dense layers of a block: their size and initial values, and how they are merged.

Source: Hu et al. 2022, LoRA, section 4.1. As there and in PEFT, an adapter adds `factor * (x @ a) @ b` with
`factor = lora_alpha / lora_rank`; `a` is initialised as the kernel of a dense layer of PyTorch, and `b` is zero at first.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LORA_A, LORA_B = "lora_a", "lora_b"
"""Names of the parameters of an adapter, next to the kernel: `[in_dim, rank]` and `[rank, out_dim]` float32."""

FROZEN = rf"(?!classifier/|.*/({LORA_A}|{LORA_B})$).*"
"""Regular expression of the paths of parameters that adapters leave as they are: all but theirs and a classifier's."""


class Lora(NamedTuple):
    """Size of an adapter.

    Attributes:
        rank: Rank of its product.
        factor: Factor of its output.
    """

    rank: int
    factor: float


def dense_layers(*, has_gate: bool, has_source: bool) -> list[str]:
    """Returns the paths of the dense layers of a block, of the decoder in an encoder-decoder.

    Args:
        has_gate: Whether the MLP is a gated unit.
        has_source: Whether the block has cross-attention.
    """
    attentions = ["attention", *(["cross_attention"] if has_source else [])]
    projections = [f"{attention}/{name}" for attention in attentions for name in ("query", "key", "value", "out")]
    return [*projections, "mlp/up", *(["mlp/gate"] if has_gate else []), "mlp/down"]


def adapter_of(layer: str, rank: int, alpha: float, patterns: Sequence[str]) -> Lora | None:
    """Returns the adapter of a dense layer; None: it has none.

    Args:
        layer: Path of the layer in its block, such as "attention/query".
        rank: Value of `model.lora_rank`; 0: no layer has an adapter.
        alpha: Value of `model.lora_alpha`; 0: `rank`.
        patterns: Regular expressions of the whole paths of layers with an adapter.
    """
    has_one = rank and any(re.fullmatch(pattern, layer) for pattern in patterns)
    return Lora(rank, adapter_factor(rank, alpha)) if has_one else None


def adapter_factor(rank: int, alpha: float) -> float:
    """Returns the factor of what adapters add, from `model.lora_rank` above 0 and `model.lora_alpha`, where 0 stands for `rank`."""
    return (alpha or rank) / rank


def is_adapter(path: str) -> bool:
    """Returns whether a parameter is one of an adapter, by its path."""
    return path.endswith((f"/{LORA_A}", f"/{LORA_B}"))


def merged_kernel(kernel: np.ndarray, a: np.ndarray, b: np.ndarray, factor: float) -> np.ndarray:
    """Returns the kernel of a dense layer that computes what the layer with its adapter computes.

    Args:
        kernel: Kernel, `[..., in_dim, out_dim] float32`.
        a: First parameter of the adapter, `[..., in_dim, rank] float32`.
        b: Second parameter, `[..., rank, out_dim] float32`.
        factor: Factor of the adapter.
    """
    product = np.matmul(a.astype(np.float64), b.astype(np.float64))
    return (kernel + factor * product).astype(np.float32)
