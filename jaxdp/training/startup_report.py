"""Startup report: devices, data, model, batch, schedule, compute and memory of a run, printed before step 1."""

import jax
import numpy as np

from jaxdp.hardware.host_memory import host_memory_bytes
from jaxdp.model import TransformerConfig, attention_line, num_parameters
from jaxdp.optim import OptimizerConfig, make_schedule
from jaxdp.parallel.devices import BatchShape, Topology
from jaxdp.report.terminal import memory_size, quantity, show_table
from jaxdp.training.setup import Programs, TrainingSetup
from jaxdp.training.update import optimizer_config

MIN_RATE_CHANGE = 0.01
"""Smallest relative change of the learning rate that a resumed run reports."""


def show_report(setup: TrainingSetup, programs: Programs) -> None:
    """Prints the report as a table."""
    config, model, step = setup.config, setup.model.config, programs.step
    show_table(
        [
            ("devices", devices_line(setup.topology)),
            *[("data", line) for line in setup.data.summary],
            ("model", model_line(model, num_parameters(model), config.model.preset)),
            *[("attention", line) for line in [attention_line(model)] if line],
            *[("sync", line) for line in [setup.strategy.describe()] if line],
            ("batch", batch_line(setup.shape, config.data.length)),
            ("schedule", schedule_line(optimizer_config(config.optim, setup.total_steps))),
            ("compute", compute_line(setup.flops_per_step, step.compile_secs)),
            ("memory", memory_line(step.device_bytes, setup.topology)),
        ]
    )


def devices_line(topology: Topology) -> str:
    """Describes devices and processes."""
    processes = _counted(topology.num_processes, "process", "processes")
    return f"{topology.num_devices} x {topology.kind} ({processes}), jax {jax.__version__}"


def model_line(config: TransformerConfig, num_parameters: int, preset: str | None) -> str:
    """Describes the shape and size of the model."""
    heads = _counted(config.num_heads, "head")
    if config.num_kv_heads != config.num_heads:
        heads += f" on {_counted(config.num_kv_heads, 'key-value head')}"
    return (
        f"{preset}: {num_parameters:,} parameters; {_counted(config.num_layers, 'layer')}, {heads}, "
        f"{config.embed_dim} wide, context {config.max_length}, {config.dtype}"
    )


def batch_line(shape: BatchShape, length: int) -> str:
    """Describes the division of the global batch: devices x microbatches x sequences."""
    return (
        f"{_counted(shape.global_batch_size, 'sequence')} = {_counted(shape.num_devices, 'device')} x "
        f"{_counted(shape.num_microbatches, 'microbatch', 'microbatches')} x "
        f"{_counted(shape.microbatch_size, 'sequence')}; {shape.global_batch_size * length:,} tokens a step"
    )


def schedule_line(optim: OptimizerConfig) -> str:
    """Describes the length of the run and its learning rates, and a warm-up that the run does not outlast."""
    peak, warmup, total = optim.learning_rate, optim.warmup_steps, optim.total_steps
    line = f"{_counted(total, 'step')}; {optim.name}, {optim.schedule} learning rate, peak {peak:.3g}"
    if not warmup:
        return line
    line += f" after {_counted(warmup, 'step')} of warm-up"
    if warmup < total:
        return line
    last = _rate(optim, total - 1)
    return f"{line}, which the run does not reach: it ends at {last:.3g}; lower optim.warmup_steps={warmup} or train longer"


def schedule_change(step: int, old: OptimizerConfig, new: OptimizerConfig) -> str | None:
    """Returns a sentence if another length of the run changes the learning rate of the next update, else None.

    Args:
        step: Updates completed.
        old: Settings that these updates were made with.
        new: Settings of the updates to come.
    """
    before, after = _rate(old, step), _rate(new, step)
    if abs(after - before) <= MIN_RATE_CHANGE * max(before, after):
        return None
    last = _rate(old, max(step - 1, 0))
    return (
        f"total_steps changed from {old.total_steps} to {new.total_steps}, which changes the {new.schedule} schedule: "
        f"the learning rate was {last:.3g} at step {step} and is {after:.3g} at step {step + 1}. "
        "A run that may be extended trains evenly with optim.schedule=constant, or with wsd if it is extended before its decay."
    )


def _rate(optim: OptimizerConfig, step: int) -> float:
    return float(np.asarray(make_schedule(optim)(step)))


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def memory_line(device_bytes: int, topology: Topology) -> str:
    """Describes the memory that the step needs on a device, and the memory of the device."""
    return f"{memory_size(device_bytes)} a device of {memory_of(topology)}"


def memory_of(topology: Topology) -> str:
    """Describes the memory of one device; CPU devices share that of the host."""
    if topology.platform == "cpu":
        return f"{memory_size(host_memory_bytes())} host memory, shared by {topology.num_local_devices}"
    limit = (topology.devices[0].memory_stats() or {}).get("bytes_limit")
    return memory_size(limit) if limit else "unknown size"


def compute_line(flops_per_step: float, compile_secs: float) -> str:
    """Describes the FLOPs of a step and the compilation time."""
    return f"{quantity(flops_per_step, 'FLOP')} a step; compiled in {compile_secs:.1f} s"
