"""Interface of experiment trackers: scalars, texts, samples and figures of a run."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from jaxdp.config import to_json
from jaxdp.errors import UserError
from jaxdp.nested import flatten
from jaxdp.report.writer_registry import RunInfo
from jaxdp.report.writers import Value


class Tracker:
    """Base class of writers to a service that may fail; `Background` calls all methods in one thread of its own.

    A subclass opens the run in its constructor, which also sends the hyperparameters. It overrides `write` and
    `close`, and whatever else its service can store. An exception is reported once and the call repeated.

    Attributes:
        holds_last_step: Whether the service stores the values of a step only when the next step begins or the run is
            closed, so that a kill loses them.
    """

    holds_last_step = False

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Records metrics by full name, numbers or strings, as measured after `step` updates."""
        raise NotImplementedError

    def write_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Records generated texts of an evaluation, each with its source and reference by name."""

    def write_figure(self, step: int, name: str, png: bytes) -> None:
        """Records a picture by full name."""

    def flush(self) -> None:
        """Sends what the calls before it recorded."""

    def close(self) -> None:
        """Ends the run; the last call."""

    def last_step(self) -> int:
        """Returns the last step that the service itself knows of, -1 if it cannot tell: no step up to it is sent again."""
        return -1


def require_package(module: str, extra: str) -> None:
    """Raises UserError if the package of a tracker is not installed, without importing it."""
    found = sys.modules[module] if module in sys.modules else importlib.util.find_spec(module)
    if found is None:
        raise _not_installed(module, extra, "there is no module of this name")


def import_package(module: str, extra: str) -> ModuleType:
    """Imports the package of a tracker.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _not_installed(module, extra, str(error)) from error


def _not_installed(module: str, extra: str, why: str) -> UserError:
    return UserError(
        f"log.{extra} is on, but the package {module} cannot be imported ({why}): "
        f"run pip install 'jaxdp[{extra}]', or set log.{extra} to False."
    )


def hyperparameters(info: RunInfo) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the resolved configuration without secrets, which `to_json` masks, nested and flat by full key."""
    config = to_json(info.config)
    return config, flatten(config)


def project_of(info: RunInfo, variable: str) -> str:
    """Returns the project: `log.wandb_project`, else an environment variable, else "jaxdp"."""
    return info.config.log.wandb_project or os.environ.get(variable) or "jaxdp"


def columns_of(samples: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Returns samples as a table: names of the columns, and rows with "" where a sample lacks one."""
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    return names, [[sample.get(name, "") for name in names] for sample in samples]
