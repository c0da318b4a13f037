"""Selection of the attention backend by `model.attention`, platform, model and mask."""

import warnings

from jaxdp.errors import UserError
from jaxdp.model.attention_backends.backend import AttentionBackend
from jaxdp.model.attention_backends.cudnn import CUDNN
from jaxdp.model.attention_backends.splash import SPLASH
from jaxdp.model.config import TransformerConfig
from jaxdp.model.masks import AttentionMask

FUSED: tuple[AttentionBackend, ...] = (CUDNN, SPLASH)
"""Fused kernels, the preferred ones first; `plain` stands for none of them."""


def model_backend(config: TransformerConfig) -> tuple[AttentionBackend | None, str | None]:
    """Returns the fused kernel of a model, and why `attention="auto"` passed over one of its platform.

    Returns:
        The kernel, or None for plain attention; and a sentence, or None if no kernel was passed over.

    Raises:
        UserError: The kernel that `model.attention` names does not support the platform or the model.
    """
    if config.attention == "plain":
        return None, None
    reason = None
    for backend in FUSED:
        if config.attention not in ("auto", backend.name):
            continue
        obstacle = backend.model_obstacle(config)
        if config.attention == backend.name:
            _require(backend, config.platform, obstacle)
        if config.platform != backend.platform:
            continue
        if obstacle is None:
            return backend, reason
        reason = reason or f"{backend.name} attention does not support this model: {obstacle}"
    return None, reason


def _require(backend: AttentionBackend, platform: str, obstacle: str | None) -> None:
    """Raises if a kernel that is asked for by name cannot run the model."""
    if platform != backend.platform:
        raise UserError(
            f"model.attention = {backend.name} needs the platform {backend.platform}, but the devices of this run are "
            f"{platform}; set model.attention = auto."
        )
    if obstacle is not None:
        raise UserError(
            f"model.attention = {backend.name} does not support this model: {obstacle}; "
            "change that or set model.attention = auto."
        )


def backend_for(config: TransformerConfig, mask: AttentionMask) -> AttentionBackend | None:
    """Returns the fused kernel for one attention without a KV cache, or None for plain attention.

    Raises:
        UserError: The kernel that `model.attention` names does not support the platform, the model or the mask.
    """
    backend, _ = model_backend(config)
    obstacle = None if backend is None else backend.mask_obstacle(mask)
    if backend is None or obstacle is None:
        return backend
    if config.attention == backend.name:
        raise UserError(
            f"model.attention = {backend.name} cannot run this call: {obstacle}; set model.attention = auto."
        )
    warnings.warn(f"plain attention in place of {backend.name}: {obstacle}", stacklevel=2)
    return None


def attention_line(config: TransformerConfig) -> str | None:
    """Describes the attention of a run; None where the platform has no fused kernel."""
    backend, reason = model_backend(config)
    if backend is not None:
        return backend.name
    if config.attention == "plain" or reason is None:
        return "plain, as model.attention says" if any(one.platform == config.platform for one in FUSED) else None
    return f"plain: {reason}"
