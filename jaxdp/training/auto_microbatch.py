"""Choice of `microbatch_size=auto`: the largest microbatch whose compiled step leaves a tenth of the devices' memory free."""

import dataclasses
from collections.abc import Callable

from jaxdp.errors import UserError
from jaxdp.parallel.devices import BatchShape, divide_batch
from jaxdp.report.terminal import memory_size, print_status
from jaxdp.training.device_memory import local_limit
from jaxdp.training.fitting import largest_microbatch, needed_bytes, state_bytes
from jaxdp.training.step_setup import StepSetup

FREE_SHARE = 0.1
"""Share of the memory that stays free, for batches that wait and for fragmentation."""

Agree = Callable[[int], int]
"""Function that returns the value of process 0, called by all processes."""


def choose_microbatch(setup: StepSetup, agree: Agree) -> BatchShape:
    """Returns the division of the batch into the largest microbatches that fit, found by compiling.

    All processes compile the same sizes in the same order: the limit is that of process 0, and programs are equal.

    Args:
        setup: Setup of the run; its own division is not used.
        agree: Agreement of the processes.

    Raises:
        UserError: Not even one sequence fits.
    """
    limit = int(agree(local_limit(setup.topology)[0]) * (1 - FREE_SHARE))
    whole = divide_batch(setup.shape.global_batch_size, None, setup.topology.num_devices)

    def needed(size: int) -> int:
        shape = divide_batch(whole.global_batch_size, size, whole.num_devices)
        return needed_bytes(lambda: setup.compile_step(shape=shape), state_bytes(setup))

    found, tried = largest_microbatch(whole.device_batch_size, limit, needed)
    size = agree(found)
    listed = ", ".join(f"{size} ({memory_size(used)})" for size, used in sorted(tried.items()))
    if not size:
        raise UserError(
            f"microbatch_size=auto: not even one sequence fits the {memory_size(limit)} that a step may use of a device; "
            f"compiled {listed}. `jaxdp plan --for=here` shows what would help."
        )
    print_status(
        f"microbatch_size=auto: {size} of a device's {whole.device_batch_size} sequences, the largest that fits "
        f"{memory_size(limit)}; compiled {listed}"
    )
    return dataclasses.replace(whole, microbatch_size=size, num_microbatches=whole.device_batch_size // size)
