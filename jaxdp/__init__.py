"""jaxdp: data-parallel Transformer training with JAX and Flax.

The public names below are imported at first use, so that `import jaxdp` is fast
and starts no backend.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "load_config": ("jaxdp.config", "load_config"),
    "train": ("jaxdp.training.train", "run"),
    "evaluate": ("jaxdp.inference.evaluate", "evaluate_checkpoint"),
    "generate": ("jaxdp.inference.generate", "generate"),
    "predict": ("jaxdp.inference.predict", "predict"),
    "load_checkpoint": ("jaxdp.inference.initial_params", "load_checkpoint"),
    "Transformer": ("jaxdp.model", "Transformer"),
    "TransformerConfig": ("jaxdp.model", "TransformerConfig"),
    "Task": ("jaxdp.tasks", "Task"),
    "Hook": ("jaxdp.trainer", "Hook"),
    "Request": ("jaxdp.trainer", "Request"),
    "RunInfo": ("jaxdp.report.writer_registry", "RunInfo"),
    "SourceRecords": ("jaxdp.data.reading.record_source", "SourceRecords"),
    "register_task": ("jaxdp.tasks", "register_task"),
    "register_source": ("jaxdp.data.reading.sources", "register_source"),
    "register_optimizer": ("jaxdp.optim", "register_optimizer"),
    "register_schedule": ("jaxdp.optim", "register_schedule"),
    "register_writer": ("jaxdp.report.writer_registry", "register_writer"),
    "register_hook": ("jaxdp.hooks.registry", "register_hook"),
}

__all__ = [*_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'jaxdp' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
