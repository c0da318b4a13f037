"""Advice after an out-of-memory error of a run: the cheapest settings that lower the memory, with the bytes that each saves."""

import contextlib
from collections.abc import Iterator

import jax

from jaxdp.errors import UserError
from jaxdp.parallel.devices import divide_batch
from jaxdp.report.terminal import memory_size, print_status
from jaxdp.run_config import RunConfig
from jaxdp.tasks.architecture import make_model
from jaxdp.training.device_memory import local_limit
from jaxdp.training.fitting import OUT_OF_MEMORY, compile_fitting, remedies
from jaxdp.training.setup import TrainingSetup
from jaxdp.training.step_setup import StepSetup

NUM_REMEDIES = 3


@contextlib.contextmanager
def advising_on_memory(setup: TrainingSetup) -> Iterator[None]:
    """Converts an out-of-memory error of the devices to a UserError that names what would help.

    With several processes it passes: a process cannot compile programs of all of them alone.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error) or setup.topology.num_processes > 1:
            raise
        print_status("memory is exhausted; compiling the step with other settings to see what would help")
        raise UserError(f"{advice(setup)} (XLA: {' '.join(str(error).split())[:200]})") from error


def advice(setup: TrainingSetup) -> str:
    """Returns the sentence of `advising_on_memory`."""
    step = compile_fitting(setup)
    found = remedies(
        setup.config, setup, step.memory.total, lambda config: _changed(setup, config), max_count=NUM_REMEDIES
    )
    limit, _ = local_limit(setup.topology)
    needed = (
        f"memory is exhausted: a step needs {memory_size(step.memory.total)} of the {memory_size(limit)} that a device of "
        f"{setup.topology.kind} has"
    )
    if not found:
        return f"{needed}; make the model or data.length smaller, or use larger devices."
    listed = "; ".join(f"{each.setting} saves {memory_size(each.saved)} (costs {each.cost})" for each in found)
    return f"{needed}. What would help, the cheapest first: {listed}."


def _changed(setup: TrainingSetup, config: RunConfig) -> StepSetup:
    """Returns the setup of a changed configuration on the same devices."""
    model = make_model(config, setup.task, setup.data.vocab_size, setup.topology.platform)
    shape = divide_batch(config.global_batch_size, config.fixed_microbatch_size, setup.topology.num_devices)
    return StepSetup(config, setup.task, model, shape, setup.total_steps, setup.topology)
