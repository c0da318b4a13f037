"""Restored model: task, vocabularies, devices, parameters and compiled programs of one checkpoint."""

import collections
import os
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from jaxdp.arguments import WEIGHTS, check_choice, optional_number, step_name
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.data.named_files import with_word_lists
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.hardware.cores import num_cores
from jaxdp.inference.initial_params import weights_key
from jaxdp.inference.trained_run import TrainedRun, open_run
from jaxdp.model import Transformer, num_parameters, parameter_shapes
from jaxdp.parallel.devices import (
    Topology,
    check_device_count,
    configure_backend,
    fitting_cpu_devices,
    fitting_topology,
    init_devices,
)
from jaxdp.parallel.placement import abstract_replicated
from jaxdp.run_config import DataConfig
from jaxdp.tasks import Task
from jaxdp.tasks.architecture import make_model
from jaxdp.tasks.make import make_task
from jaxdp.typing import PyTree

MAX_KEPT = 64
"""Limit of compiled parts of one model; the least recently used one is freed."""

Part = TypeVar("Part")


class RestoredModel:
    """Model of a checkpoint with everything that inference needs; `place` starts the backend and restores the parameters.

    Attributes:
        run: Work directory, configuration, checkpoint and vocabularies.
        config: Configuration of the run.
        task: Task with the vocabularies of the run.
        tokenizer: Tokenizer of the run; None where it was trained on ready-made tokens.
        topology: Devices; set by `place`, as are the next three.
        model: The module.
        abstract_params: Shapes and shardings of the parameters.
        params: Parameters, replicated on the devices.
    """

    topology: Topology
    model: Transformer
    abstract_params: PyTree
    params: PyTree

    def __init__(self, run: TrainedRun, weights: str = "ema", cpu_devices: int | None = None):
        """Creates the object; no backend is started.

        Args:
            run: Run with the checkpoint.
            weights: ema (where the run has it) or raw.
            cpu_devices: Number of CPU devices to fake; None: chosen by `place`.

        Raises:
            UserError: The task is unknown.
            DamageFound: The manifest is damaged.
        """
        self.run, self.config = run, run.config
        self.task: Task = make_task(run.config, run.vocabularies)
        # Any in place of None: only a program that expects runs on ready-made tokens has to check it.
        self.tokenizer: Tokenizer | Any = run.vocabularies.tokenizer
        self._weights, self._cpu_devices = weights_key(run.checkpoint, weights), cpu_devices
        self._is_placed = False
        self._kept: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()

    @property
    def data_config(self) -> DataConfig:
        """Data configuration of the run, with words in place of the names of their files."""
        return with_word_lists(self.config.data, self.run.vocabularies.files)

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters; a tied embedding counts once."""
        return num_parameters(self.model.config)

    def place(self, num_rows: int, *, evenly: bool = False) -> None:
        """Chooses the devices and restores the parameters on them; a model that is placed stays where it is.

        Args:
            num_rows: Number of rows of the first batch: no more CPU devices than these are started.
            evenly: Whether a batch must divide over the devices; otherwise callers pad it.

        Raises:
            UserError: The devices are not available, or the checkpoint holds another model.
            DamageFound: The files are not those that were saved.
        """
        if self._is_placed:
            return
        configure_backend(self._cpu_devices, fitting_cpu_devices(num_rows) if evenly else min(num_cores(), num_rows))
        self.topology = init_devices()
        if evenly and self._cpu_devices is None:
            self.topology = fitting_topology(self.topology, num_rows)
        check_device_count(self._cpu_devices, self.topology)
        vocab_size = self.config.model.vocab_size
        assert vocab_size is not None, "the config.json of a run has the size of its tokenizer"
        self.model = make_model(self.config, self.task, vocab_size, self.topology.platform)
        self.abstract_params = abstract_replicated(parameter_shapes(self.model.config), self.topology)
        self.params = restore_part(self.run.checkpoint, self._weights, self.abstract_params)
        self._is_placed = True

    def kept(self, key: Hashable, make: Callable[[], Part]) -> Part:
        """Returns the compiled part of a key, which `make` compiles at the first request."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def restored_model(
    workdir: str | os.PathLike[str], step: str | int, weights: str, cpu_devices: int | None
) -> RestoredModel:
    """Opens a run for one call; the devices are chosen by that call.

    Args:
        workdir: Work directory of the run.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake; None: chosen by the number of rows.

    Raises:
        UserError: There is no run or no such checkpoint, or an argument is of another type.
        DamageFound: The checkpoint, a tokenizer or the labels are not what was written.
    """
    step, cpu_devices = step_name(step), optional_number("cpu_devices", cpu_devices)
    check_choice("weights", weights, WEIGHTS)
    return RestoredModel(open_run(workdir, step), weights, cpu_devices)
