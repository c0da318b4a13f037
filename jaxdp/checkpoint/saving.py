"""Asynchronous saving of train states with Orbax.

A save copies the state to the host, returns, and continues in the background:
Orbax writes one composite {state, data, config} into a directory with a unique
name; the manifest is written into it; the rename to `<step>` commits it; then the
checkpoints that no retention rule keeps are deleted. A failure of any of these
surfaces at the next call of `check`.

Nothing is renamed or deleted unless the work directory still belongs to this run,
since another run may have started at its path.

Process 0 writes what every process has. With several processes and sharded leaves
each process writes its own shards, see `shard_records`, and process 0 commits. No
process waits for another inside Orbax, which would not report the missing one.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdp.atomic_files import fsync_path
from jaxdp.checkpoint.arrays import compile_checksums
from jaxdp.checkpoint.destination import Destination
from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import Manifest, committed_steps, has_manifest, read_manifest, write_manifest
from jaxdp.checkpoint.metric_records import describe_metrics
from jaxdp.checkpoint.names import DAMAGED_MARK, FOREIGN_MARK, SAVING_MARK, free_name
from jaxdp.checkpoint.orbax_settings import async_checkpointer, suppress_event_loop_errors
from jaxdp.checkpoint.retention import CheckPlace, Retention, apply_retention
from jaxdp.checkpoint.shard_records import files_of, pieces_of, write_shards
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite
from jaxdp.metrics import MetricSpec
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.first_execution import read_in_thread
from jaxdp.parallel.host_blocks import host_block, local_range, start_copies, true_shapes
from jaxdp.parallel.layout import replicated_layout
from jaxdp.report.terminal import print_status
from jaxdp.state import TrainState
from jaxdp.trees import named_leaves

_WRITE_ERRORS = (OSError, ValueError)
"""Exceptions of a full disk or a broken directory; TensorStore, below Orbax, raises ValueError."""

_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
"""Number of the system's error in a message of TensorStore."""


class CheckpointWriter:
    """Saves states of one run, one at a time, in the background."""

    def __init__(
        self,
        checkpoints: Path,
        retention: Retention,
        abstract_state: TrainState,
        *,
        async_save: bool,
        check_place: CheckPlace = lambda: None,
        proofs: Path | None = None,
        provenance: Mapping[str, Any] | None = None,
        run_files: Mapping[str, Mapping[str, Any]] | None = None,
        metrics: Iterable[MetricSpec] = (),
        layout: TrainState | None = None,
        to_portable: Callable[[TrainState], TrainState] = lambda state: state,
        control_plane: ControlPlane | None = None,
        destination: Destination | None = None,
    ):
        """Creates the writer.

        Args:
            checkpoints: Directory that has `<step>/`; created if missing.
            retention: Retention rules.
            abstract_state: Shapes and shardings of what `to_portable` returns.
            async_save: Whether a save continues in the background; otherwise `save` waits for it.
            check_place: Called before each save, rename and deletion; see `CheckPlace`.
            proofs: File that records intact checkpoints for the next start.
            provenance: Item of every checkpoint, plain JSON values; None: no such item.
            run_files: Files of the run; see `Manifest`.
            metrics: Declarations of the evaluation metrics, recorded in every manifest.
            layout: Layout of what `to_portable` returns; None: all leaves have their true shapes.
            to_portable: Converts a state on the devices to the form that is saved.
            control_plane: Control plane of the run's processes, which all create a writer; None: a single process.
            destination: Place of the checkpoints; None: the directory, which all processes share.

        Raises:
            UserError: The directory cannot be created.
        """
        self._check_place = check_place
        check_place()
        try:
            checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{checkpoints} cannot be made ({error.strerror}); it must be a directory that this user can write "
                "to: move away what is there, or change its permissions."
            ) from error
        self._checkpoints = checkpoints.resolve()
        self._directory = os.stat(self._checkpoints)
        self._control_plane = control_plane or ControlPlane.single_process()
        layout = replicated_layout(abstract_state) if layout is None else layout
        self._layouts = jax.tree.leaves(layout)
        self._leaves = named_leaves(true_shapes(abstract_state, layout))
        self._ranges = [
            local_range(leaf, of_leaf)
            for leaf, of_leaf in zip(jax.tree.leaves(abstract_state), self._layouts, strict=True)
        ]
        self._is_divided = any(self._ranges)
        # All processes write next to the same unfinished checkpoint.
        self._suffix = SAVING_MARK + self._control_plane.broadcast(secrets.token_hex(6))
        self._suppression = contextlib.ExitStack()
        self._suppression.enter_context(suppress_event_loop_errors())
        self._retention, self._run_files = retention, run_files
        self._metric_specs = describe_metrics(metrics)
        self._is_intact = Intactness(proofs)
        self._async_save = async_save
        self._to_portable, self._destination = to_portable, destination or Destination()
        self._provenance = None if provenance is None else dict(provenance)
        self._orbax = async_checkpointer()
        self._finisher = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-finisher")
        self._pending: concurrent.futures.Future | None = None
        self._last_step: int | None = None
        self._has_failed = False
        self.longest_save_secs = 0.0
        """From the call of `save` until the checkpoint counts; 0 before the first."""
        self._last_save: dict[str, float] = {}
        # Compiled now, so that the first save does not stop to compile.
        self._checksums = compile_checksums(abstract_state, layout)

    def save(
        self,
        step: int,
        state: TrainState,
        data_state: Mapping[str, Any],
        config: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Starts a save and returns once `state` may be donated; saving a step again is a no-op.

        Args:
            step: Number of batches consumed.
            state: State after this step.
            data_state: Position of the data, as JSON values.
            config: Resolved configuration, as JSON values.
            metrics: Evaluation of this step by full name; empty if there was none.

        Raises:
            UserError: The previous save failed, or this one cannot start.
        """
        self.wait()
        start = time.monotonic()
        state = self._to_portable(state)
        checksums = self._checksums(state)  # an SPMD program, so all processes must run it
        is_main = self._control_plane.is_main_process
        if not (is_main or self._is_divided):
            return
        if self.decide(step == self._last_step or read_manifest(self._checkpoints / str(step)) is not None):
            return
        try:
            self._check_directory()
            whole, own = self._host_blocks(state)
            if is_main:
                items = {"data": dict(data_state), "config": dict(config), "provenance": self._provenance}
                self._orbax.save(
                    self._unfinished(step),
                    args=ocp.args.Composite(
                        state=ocp.args.PyTreeSave(whole),
                        **{name: ocp.args.JsonSave(item) for name, item in items.items() if item is not None},
                    ),
                )
        except _WRITE_ERRORS as error:
            raise self._failure(step, error) from error
        self._last_step = step
        commit = functools.partial(self._commit, step, checksums, nullify_non_finite(metrics))
        self._pending = self._finisher.submit(self._finish, step, own, commit if is_main else None, start)
        if not self._async_save:
            self.wait()

    def decide(self, decision: bool) -> bool:
        """Returns the decision of process 0 if all processes write, else that of this process."""
        return self._control_plane.broadcast(decision) if self._is_divided else decision

    def _host_blocks(self, state: TrainState) -> tuple[TrainState | None, dict[str, np.ndarray]]:
        """Copies what this process writes to the host.

        Returns:
            The state with the leaves that process 0 writes whole, None in place of the others; and this
            process's range of each of the others by path.
        """
        leaves, structure = jax.tree.flatten(state)
        is_main = self._control_plane.is_main_process
        is_written = [is_main or held is not None for held in self._ranges]
        start_copies([leaf for leaf, written in zip(leaves, is_written, strict=True) if written])
        blocks = [
            host_block(leaf, layout) if written else None
            for leaf, layout, written in zip(leaves, self._layouts, is_written, strict=True)
        ]
        whole = [block if held is None else None for block, held in zip(blocks, self._ranges, strict=True)]
        own = {
            name: block
            for (name, _), block, held in zip(self._leaves, blocks, self._ranges, strict=True)
            if held is not None and block is not None
        }
        return jax.tree.unflatten(structure, whole), own

    def _finish(self, step: int, own: dict[str, np.ndarray], commit: Callable[[], int] | None, start: float) -> None:
        """Writes the shards of this process; in process 0, commits the checkpoint and applies the retention rules."""
        if self._is_divided:
            self._check_directory()
            ranges = {name: held for (name, _), held in zip(self._leaves, self._ranges, strict=True) if held}
            write_shards(self._unfinished(step), self._control_plane.process_index, own, ranges)
            own.clear()
            self._destination.send_shards(self._unfinished(step), self._control_plane.process_index)
        num_bytes = commit() if commit is not None else 0
        if commit is not None:
            self._destination.publish()
        secs = time.monotonic() - start
        self.longest_save_secs = max(self.longest_save_secs, secs)
        if commit is not None:
            self._last_save = {"perf/checkpoint_bytes": num_bytes, "perf/checkpoint_secs": secs}
            apply_retention(self._checkpoints, self._retention, self._is_intact, self._check_directory)
            self._check_directory()
            self._is_intact.record(self._checkpoints)

    def _commit(self, step: int, checksums: list[jax.Array], metrics: dict) -> int:
        """Waits until everything is on disk, writes the manifest and renames the checkpoint; returns its bytes."""
        self._orbax.wait_until_finished()
        unfinished, directory = self._unfinished(step), self._checkpoints / str(step)
        leaves = [
            {"path": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": checksum}
            for (name, leaf), checksum in zip(
                self._leaves, np.concatenate([read_in_thread(part) for part in checksums]).tolist(), strict=True
            )
        ]
        self._check_directory()
        manifest = Manifest(
            step, time.time(), metrics, leaves, describe_files(unfinished), self._run_files, self._metric_specs
        )
        if self._is_divided:
            records = self._destination.collect_shards(unfinished, self._control_plane)
            self._check_directory()
            manifest = dataclasses.replace(
                manifest, files={**manifest.files, **files_of(records)}, pieces=pieces_of(records)
            )
        write_manifest(unfinished, manifest)
        self._check_directory()
        _make_way(directory)
        unfinished.rename(directory)
        fsync_path(self._checkpoints)
        self._is_intact.trust(directory)
        return manifest.num_bytes

    def _unfinished(self, step: int) -> Path:
        return self._checkpoints / f"{step}{self._suffix}"

    def _check_directory(self) -> None:
        """Checks that the path still has the directory in which this run started to save."""
        self._check_place()
        try:
            if os.path.samestat(os.stat(self._checkpoints), self._directory):
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise FileNotFoundError("the directory is gone")

    def take_metrics(self) -> dict[str, float]:
        """Returns size and time of a save that has finished since the last call; empty if there is none."""
        metrics, self._last_save = self._last_save, {}
        return metrics

    def check(self) -> None:
        """Raises UserError if the last finished save failed; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is committed.

        Raises:
            UserError: The save failed; earlier checkpoints are unchanged.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except _WRITE_ERRORS as error:
            step, self._last_step = self._last_step, None
            raise self._failure(step, error) from error

    def _failure(self, step: int | None, error: Exception) -> UserError:
        self._has_failed = True
        self._check_place()  # its message has the cause if the directory was replaced
        code = _OS_ERROR.search(str(error))
        why = os.strerror(int(code[1])) if code else error
        steps = committed_steps(self._checkpoints) if self._checkpoints.is_dir() else []
        whole = ", ".join(map(str, steps)) or "none"
        return UserError(
            f"checkpoint {step} could not be written to {self._checkpoints}: {why}; "
            f"whole checkpoints there: {whole}; "
            "make room or fix the directory and run the same command again."
        )

    def close(self) -> None:
        """Waits for the last save and ends the background threads.

        Raises:
            UserError: See `wait`; or Orbax could not finish its last write.
        """
        try:
            self.wait()
        finally:
            self._finisher.shutdown()
            try:
                self._orbax.close()
            except _WRITE_ERRORS as error:
                if not self._has_failed:  # otherwise the error has been reported
                    raise self._failure(self._last_step, error) from error
            finally:
                self._suppression.close()
                self._remove_strays()

    def _remove_strays(self) -> None:
        """Removes this run's unfinished saves from a directory that belongs to another run now.

        TensorStore creates all parent directories of a file that it writes, also in the
        new run's directory. The token in their names identifies them.
        """
        try:
            self._check_directory()
        except (UserError, FileNotFoundError):
            for path in self._checkpoints.glob(f"*{self._suffix}*"):
                shutil.rmtree(path, ignore_errors=True)


def _make_way(directory: Path) -> None:
    """Sets aside an entry that has the name of a new checkpoint."""
    if os.path.lexists(directory):
        aside = free_name(directory, DAMAGED_MARK if has_manifest(directory) else FOREIGN_MARK)
        directory.rename(aside)
        print_status(
            f"{directory} is not a complete checkpoint of jaxdp and is set aside as {aside}, to make room for one"
        )
