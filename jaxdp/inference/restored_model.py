"""Restored model: task, vocabularies, devices, parameters and compiled programs of one checkpoint."""

import collections
import os
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from jaxdp.arguments import WEIGHTS, check_choice, check_sync, optional_number, step_name
from jaxdp.checkpoint.lookup import weights_key
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.data.named_files import with_word_lists
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.hardware.cores import num_cores
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
from jaxdp.parallel.layout import (
    abstract_in,
    abstract_true,
    from_true,
    is_replicated,
    params_layout,
    placed_by,
    replicated_layout,
    to_true,
)
from jaxdp.parallel.sharding import parameter_gather
from jaxdp.run_config import DataConfig, RunConfig
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
        model: The module, for whole parameters.
        device_model: The module for use in SPMD programs: it gathers sharded parameters layer by layer.
        device_params: Parameters as the devices hold them, for SPMD programs.
        abstract_params: Shapes and shardings of `device_params`.
    """

    topology: Topology
    model: Transformer
    device_model: Transformer
    device_params: PyTree
    abstract_params: PyTree

    def __init__(self, run: TrainedRun, weights: str = "ema", cpu_devices: int | None = None, sync: str | None = None):
        """Creates the object; no backend is started.

        Args:
            run: Run with the checkpoint.
            weights: ema (where the run has it) or raw.
            cpu_devices: Number of CPU devices to fake; None: chosen by `place`.
            sync: pmean or zero3; None: zero3 if the run shards its parameters, else pmean.

        Raises:
            UserError: The task is unknown.
            DamageFound: The manifest is damaged.
        """
        self.run, self.config = run, run.config
        self.task: Task = make_task(run.config, run.vocabularies)
        # Any in place of None: only a program that expects runs on ready-made tokens has to check it.
        self.tokenizer: Tokenizer | Any = run.vocabularies.tokenizer
        self._weights, self._cpu_devices = weights_key(run.checkpoint, weights), cpu_devices
        self._is_sharded = (sync or run.config.parallel.sync) == "zero3"
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
        self.model = make_model(_without_kernel(self.config), self.task, vocab_size, self.topology.platform)
        shapes, num_devices = parameter_shapes(self.model.config), self.topology.num_devices
        self._layout = params_layout(shapes, num_devices) if self._is_sharded else replicated_layout(shapes)
        self.device_model = self.model.clone(gather=parameter_gather(self._layout, self.model.config.dtype))
        self._true_params = abstract_true(shapes, self._layout, self.topology)
        self.abstract_params = abstract_in(shapes, self._layout, self.topology)
        restored = restore_part(self.run.checkpoint, self._weights, self._true_params)
        self.device_params = self._converted(
            lambda params: from_true(params, self._layout, num_devices), self.abstract_params, restored
        )
        self._is_placed = True

    @property
    def params(self) -> PyTree:
        """Parameters in their true shapes, replicated or sharded over the devices."""
        return self._converted(lambda params: to_true(params, self._layout), self._true_params, self.device_params)

    def _converted(self, convert: Callable[[PyTree], PyTree], specs: PyTree, params: PyTree) -> PyTree:
        """Returns parameters in another form, each device its own part; the same if nothing is sharded."""
        return params if is_replicated(self._layout) else placed_by(convert, specs)(params)

    def kept(self, key: Hashable, make: Callable[[], Part]) -> Part:
        """Returns the compiled part of a key, which `make` compiles at the first request."""
        if key not in self._kept:
            self._kept[key] = make()
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _without_kernel(config: RunConfig) -> RunConfig:
    """Returns a configuration that leaves the attention kernel open: training may have required that of other devices."""
    return config if config.model.attention == "plain" else config.replaced(model={"attention": "auto"})


def restored_model(
    workdir: str | os.PathLike[str],
    step: str | int,
    weights: str,
    cpu_devices: int | None,
    sync: str | None = None,
) -> RestoredModel:
    """Opens a run for one call; the devices are chosen by that call.

    Args:
        workdir: Work directory of the run.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        cpu_devices: Number of CPU devices to fake; None: chosen by the number of rows.
        sync: Layout of the parameters: pmean replicates them, zero3 shards them over the devices; None: that of the run.

    Raises:
        UserError: There is no run or no such checkpoint, or an argument is of another type.
        DamageFound: The checkpoint, a tokenizer or the labels are not what was written.
    """
    step, cpu_devices = step_name(step), optional_number("cpu_devices", cpu_devices)
    check_choice("weights", weights, WEIGHTS)
    check_sync(sync)
    return RestoredModel(open_run(workdir, step), weights, cpu_devices, sync)
