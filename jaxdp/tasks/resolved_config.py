"""Resolved configuration, as `config.json` keeps it: defaults of task and preset written out, paths absolute."""

import dataclasses
import os

from jaxdp.data.source_entries import absolute_places
from jaxdp.model.lora import FROZEN
from jaxdp.paths import HUB
from jaxdp.run_config import RunConfig
from jaxdp.tasks import Task
from jaxdp.tasks.architecture import architecture, default_preset


def resolve(config: RunConfig, task: Task, vocab_size: int) -> RunConfig:
    """Returns the configuration with everything that a later reader needs.

    Args:
        config: Configuration of the run.
        task: Task with the vocabularies of the run.
        vocab_size: Size of the token embedding.

    Raises:
        UserError: A value does not fit, or the model cannot learn the task.
    """
    model, data = architecture(config, task, vocab_size), dataclasses.asdict(config.data)
    unset = {
        key: getattr(model, key)
        for key, value in dataclasses.asdict(config.model).items()
        if value is None and key != "preset"
    }
    return config.replaced(
        data={
            "packing": config.data.packing or task.packings[0],
            "mixture": tuple({**entry, **absolute_places(entry)} for entry in config.data.mixture),
            **absolute_places(data),
        },
        # Adapters are trained alone, unless the user chose what is frozen.
        optim={"freeze": (FROZEN,) if model.lora_rank and not config.optim.freeze else config.optim.freeze},
        model={"preset": config.model.preset or default_preset(task), **unset},
        init_from=config.init_from and _absolute(config.init_from),
    )


def _absolute(init_from: str) -> str:
    """Returns `init_from` with an absolute path; a name on the Hub remains as it is."""
    prefix = HUB if init_from.startswith(HUB) else ""
    path = os.path.expanduser(init_from.removeprefix(prefix))
    return init_from if prefix and not os.path.isdir(path) else os.path.abspath(path)
