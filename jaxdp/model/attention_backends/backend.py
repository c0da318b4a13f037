"""Interface of a fused attention kernel: its platform, its function, and what it does not support."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax

from jaxdp.model.config import TransformerConfig
from jaxdp.model.masks import AttentionMask


class Attend(Protocol):
    """Scaled dot-product attention by one kernel, which never stores the scores."""

    def __call__(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, *, scale: float, softcap: float
    ) -> jax.Array:
        """Returns the attention outputs `[b, h, q, d]`; arguments are those of `reference_attention`."""
        ...


@dataclasses.dataclass(frozen=True)
class AttentionBackend:
    """Fused attention kernel.

    Attributes:
        name: Value of `model.attention` that requires the kernel.
        platform: Platform of the devices that run it.
        attend: Kernel.
        model_obstacle: Returns the reason why the kernel does not support a model, or None if it does; the platform
            does not count.
        mask_obstacle: Returns the reason why the kernel does not support a mask, or None if it does.
    """

    name: str
    platform: str
    attend: Attend
    model_obstacle: Callable[[TransformerConfig], str | None]
    mask_obstacle: Callable[[AttentionMask], str | None]


def shared_obstacle(config: TransformerConfig) -> str | None:
    """Returns what no fused kernel supports: changes of the scores or probabilities that differ from pair to pair."""
    if config.attention_dropout_rate > 0:
        return f"it needs model.attention_dropout_rate = 0, found {config.attention_dropout_rate}"
    if config.positions == "relative":
        return "it does not support model.positions = relative"
    if config.scan_layers and config.has_mixed_windows:
        return "it does not support model.attention_window_pattern with model.scan_layers"
    return None
