"""jaxdp: data-parallel Transformer training with JAX and Flax.

The public names below are imported at first use, so that `import jaxdp` is fast
and starts no backend.
"""

import importlib

TYPE_CHECKING = False  # type checkers take it for True, as they do `typing.TYPE_CHECKING`; typing is slow to import
if TYPE_CHECKING:  # for editors and type checkers, which do not call __getattr__; a test compares these with _EXPORTS
    from jaxdp.config import load_config as load_config
    from jaxdp.data.reading.record_source import SourceRecords as SourceRecords
    from jaxdp.data.reading.sources import register_source as register_source
    from jaxdp.decoding.beam import BeamSearch as BeamSearch
    from jaxdp.decoding.sampling import Sampling as Sampling
    from jaxdp.hooks.registry import register_hook as register_hook
    from jaxdp.inference.evaluate import evaluate as evaluate
    from jaxdp.inference.generate import generate as generate
    from jaxdp.inference.initial_params import load_checkpoint as load_checkpoint
    from jaxdp.inference.loaded_model import LoadedModel as LoadedModel
    from jaxdp.inference.loaded_model import load as load
    from jaxdp.inference.predict import predict as predict
    from jaxdp.model import Transformer as Transformer
    from jaxdp.model import TransformerConfig as TransformerConfig
    from jaxdp.model import init_params as init_params
    from jaxdp.optim import register_optimizer as register_optimizer
    from jaxdp.optim import register_schedule as register_schedule
    from jaxdp.parallel.strategies import SyncStrategy as SyncStrategy
    from jaxdp.parallel.strategies import register_strategy as register_strategy
    from jaxdp.report.writer_registry import RunInfo as RunInfo
    from jaxdp.report.writer_registry import register_writer as register_writer
    from jaxdp.tasks import Task as Task
    from jaxdp.tasks import register_task as register_task
    from jaxdp.trainer import Hook as Hook
    from jaxdp.trainer import Request as Request
    from jaxdp.training.train import train as train

__version__ = "0.1.0"

_EXPORTS = {
    "load_config": ("jaxdp.config", "load_config"),
    "train": ("jaxdp.training.train", "train"),
    "load": ("jaxdp.inference.loaded_model", "load"),
    "LoadedModel": ("jaxdp.inference.loaded_model", "LoadedModel"),
    "evaluate": ("jaxdp.inference.evaluate", "evaluate"),
    "generate": ("jaxdp.inference.generate", "generate"),
    "predict": ("jaxdp.inference.predict", "predict"),
    "load_checkpoint": ("jaxdp.inference.initial_params", "load_checkpoint"),
    "Sampling": ("jaxdp.decoding.sampling", "Sampling"),
    "BeamSearch": ("jaxdp.decoding.beam", "BeamSearch"),
    "init_params": ("jaxdp.model", "init_params"),
    "Transformer": ("jaxdp.model", "Transformer"),
    "TransformerConfig": ("jaxdp.model", "TransformerConfig"),
    "Task": ("jaxdp.tasks", "Task"),
    "Hook": ("jaxdp.trainer", "Hook"),
    "Request": ("jaxdp.trainer", "Request"),
    "SyncStrategy": ("jaxdp.parallel.strategies", "SyncStrategy"),
    "RunInfo": ("jaxdp.report.writer_registry", "RunInfo"),
    "SourceRecords": ("jaxdp.data.reading.record_source", "SourceRecords"),
    "register_task": ("jaxdp.tasks", "register_task"),
    "register_source": ("jaxdp.data.reading.sources", "register_source"),
    "register_optimizer": ("jaxdp.optim", "register_optimizer"),
    "register_schedule": ("jaxdp.optim", "register_schedule"),
    "register_strategy": ("jaxdp.parallel.strategies", "register_strategy"),
    "register_writer": ("jaxdp.report.writer_registry", "register_writer"),
    "register_hook": ("jaxdp.hooks.registry", "register_hook"),
}

# A literal, which type checkers read; a test compares it with _EXPORTS.
__all__ = [
    "BeamSearch",
    "Hook",
    "LoadedModel",
    "Request",
    "RunInfo",
    "Sampling",
    "SourceRecords",
    "SyncStrategy",
    "Task",
    "Transformer",
    "TransformerConfig",
    "evaluate",
    "generate",
    "init_params",
    "load",
    "load_checkpoint",
    "load_config",
    "predict",
    "register_hook",
    "register_optimizer",
    "register_schedule",
    "register_source",
    "register_strategy",
    "register_task",
    "register_writer",
    "train",
]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'jaxdp' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
