"""Placement of a train state: its layout on the devices, initialisation, and conversion to the form on disk and back."""

import dataclasses
from collections.abc import Callable

import jax

from jaxdp.parallel.devices import Topology
from jaxdp.parallel.layout import (
    abstract_in,
    abstract_true,
    from_true,
    params_layout,
    placed_by,
    replicated_layout,
    to_true,
)
from jaxdp.parallel.spmd import fixed_settings
from jaxdp.parallel.strategies import SyncStrategy
from jaxdp.state import TrainState
from jaxdp.typing import PyTree


class StatePlacement:
    """Placement of the state of a run by its strategy.

    Attributes:
        layout: Layout of every leaf.
        abstract: Shapes and shardings of the state on the devices.
        portable: Shapes and shardings of the form that checkpoints save.
        portable_layout: Layout of that form: `layout`, or all in true shapes if the strategy overrides `to_portable`.
        params: Shapes and shardings of initial parameters, in their true shapes.
        eval_layout: Layout of the parameters to evaluate.
        abstract_eval_params: Shapes and shardings of the parameters to evaluate.
    """

    def __init__(
        self,
        strategy: SyncStrategy,
        topology: Topology,
        params: PyTree,
        initialise: Callable[[PyTree], TrainState],
    ):
        """Derives everything from the strategy; computes nothing.

        Args:
            strategy: Synchronisation strategy.
            topology: Devices.
            params: True shapes of the parameters.
            initialise: Traceable function from initial parameters to state 0, both in true shapes.
        """
        self._strategy, self._topology, self._initialise = strategy, topology, initialise
        with fixed_settings():
            shapes = jax.eval_shape(initialise, params)
        self.layout = strategy.layout(shapes)
        self.abstract = abstract_in(shapes, self.layout, topology)
        # A state is saved as the devices hold it, without a copy of it, unless the strategy has another form for it.
        self._is_converted = type(strategy).to_portable is not SyncStrategy.to_portable
        self.portable, self.portable_layout = self.abstract, self.layout
        if self._is_converted:
            self.portable = strategy.portable_shapes(shapes, self.layout, topology)
            self.portable_layout = replicated_layout(self.portable)
        self.eval_layout = strategy.eval_layout(self.layout)
        self.abstract_eval_params = abstract_in(params, self.eval_layout, topology)
        # Initial parameters are sharded wherever they can be: those of a sharded state must not be whole on one device.
        replicated = replicated_layout(params)
        is_sharded = any(leaf.kind == "sharded" for leaf in jax.tree.leaves(self.layout))
        self.params = abstract_true(
            params, params_layout(params, topology.num_devices) if is_sharded else replicated, topology
        )

    def fresh(self, make_params: Callable[[], PyTree]) -> TrainState:
        """Returns state 0 around traceable initial parameters; no device computes more than it keeps."""
        return self._placed(lambda: self._initialise(make_params()))

    def around(self, params: PyTree) -> TrainState:
        """Returns state 0 around parameters of true shape; no two of its leaves share a buffer."""
        return self._placed(self._initialise, params)

    def _placed(self, make: Callable[..., TrainState], *arguments: PyTree) -> TrainState:
        def stored(*arguments):
            return from_true(make(*arguments), self.layout, self._topology.num_devices)

        return self._settled(placed_by(stored, self.abstract), *arguments)

    def _settled(self, function: Callable, *arguments) -> PyTree:
        with fixed_settings():
            # Done before anything else can fail: an error that frees the program while it runs has crashed a process.
            return jax.block_until_ready(function(*arguments))

    def initial_params(self, make_params: Callable[[], PyTree]) -> PyTree:
        """Returns initial parameters in their true shapes, sharded where the state is."""
        return self._settled(placed_by(make_params, self.params))

    def to_portable(self, state: TrainState) -> TrainState:
        """Returns the form of a state that checkpoints save: the state itself unless the strategy overrides `to_portable`."""
        if not self._is_converted:
            return state
        return self._settled(
            placed_by(lambda state: self._strategy.to_portable(state, self.layout), self.portable), state
        )

    def from_portable(self, saved: TrainState) -> TrainState:
        """Returns the state on these devices of its form in checkpoints.

        Args:
            saved: Form in checkpoints; parts of `sync` that the checkpoint does not have are missing, and are
                initialised.
        """
        complete = jax.tree.structure(saved) == jax.tree.structure(self.portable)
        if complete and not self._is_converted:
            return saved

        def stored(saved: TrainState) -> TrainState:
            if not self._is_converted:
                sync = {part: self.layout.sync[part] for part in saved.sync}
                saved = to_true(saved, dataclasses.replace(self.layout, sync=sync))
            if not complete:
                saved = dataclasses.replace(
                    saved, sync=self._strategy.initial_sync(saved, self.layout) | dict(saved.sync)
                )
            return self._strategy.from_portable(saved, self.layout)

        return self._settled(placed_by(stored, self.abstract), saved)
