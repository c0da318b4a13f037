"""Replica check: stops a run whose devices no longer hold the same state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxdp.errors import ReplicasDiffer
from jaxdp.hooks.every import Every
from jaxdp.parallel.consistency import describe_disagreements, find_disagreements
from jaxdp.parallel.devices import Topology
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, StepInfo


class Consistency(Hook):
    """Compares the devices' copies of the state periodically and before each save.

    The comparison is dispatched behind the step and read with the metrics of the
    step, so the devices never wait. This hook runs before the one that saves, so
    every saved state has been compared.
    """

    name = "consistency"
    before = ("preemption",)  # no hook uses or saves a state that has not been compared

    def __init__(
        self,
        checksums: Callable[[TrainState], jax.Array],
        names: Sequence[str],
        topology: Topology,
        every: Every,
        is_saved: Callable[[int], bool],
    ):
        """Creates the hook.

        Args:
            checksums: Function state -> [num_devices, num_leaves] uint32; see `compile_checksums`.
            names: Names of the leaves of the state.
            topology: Devices, for the message.
            every: Trigger of comparisons.
            is_saved: Function step -> whether the state after this step may be saved.
        """
        self._checksums = checksums
        self._names = names
        self._topology = topology
        self._every = every
        self._is_saved = is_saved
        self._pending: tuple[int, Any] | None = None
        self._last_step = -1

    def on_dispatch(self, step: int, state: TrainState) -> None:
        """Dispatches the checksums when a comparison is due."""
        if self._every(step) or self._is_saved(step):
            self._pending = (step, self._checksums(state))

    def on_step(self, info: StepInfo) -> None:
        """Compares the checksums of this step, if any."""
        if self._pending is not None and self._pending[0] == info.step:
            self._compare()

    def on_stop(self, step: int, state: TrainState) -> None:
        """Compares the last state, which is saved next."""
        if self._last_step != step:
            self._pending = (step, self._checksums(state))
            self._compare()

    def _compare(self) -> None:
        """Waits for the pending checksums.

        Raises:
            ReplicasDiffer: The checksums differ between devices; raised on all processes.
        """
        assert self._pending is not None, "the callers have checksums to compare"
        (self._last_step, checksums), self._pending = self._pending, None
        found = find_disagreements(jax.device_get(checksums), self._names)
        if not found:
            return
        raise ReplicasDiffer(
            f"the devices no longer hold the same state after step {self._last_step}: "
            f"{describe_disagreements(found, self._topology)}; nothing of it was saved. Run the same command "
            "again to continue from the last checkpoint, which is good; if the same device is named again, take "
            "it out of service: its memory or arithmetic is faulty."
        )
