"""Asynchronous saving of train states with Orbax.

A save copies the state to the host, returns, and continues in the background:
Orbax writes one composite {state, data, config} into a directory with a unique
name; the manifest is written into it; the rename to `<step>` commits it; then the
checkpoints that no retention rule keeps are deleted. A failure of any of these
surfaces at the next call of `check`.

Nothing is renamed or deleted unless the work directory still belongs to this run,
since another run may have started at its path.

Every process has the same state, so only process 0 writes: no process waits for
another inside Orbax, which would not report the missing one.
"""

import concurrent.futures
import contextlib
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
from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import (
    Manifest,
    committed_steps,
    describe_files,
    has_manifest,
    read_manifest,
    write_manifest,
)
from jaxdp.checkpoint.metric_records import describe_metrics
from jaxdp.checkpoint.names import DAMAGED_MARK, FOREIGN_MARK, SAVING_MARK, free_name
from jaxdp.checkpoint.orbax_settings import per_process, suppress_event_loop_errors
from jaxdp.checkpoint.retention import CheckPlace, Retention, apply_retention
from jaxdp.checksum import leaf_checksums
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite
from jaxdp.metrics import MetricSpec
from jaxdp.report.terminal import print_status
from jaxdp.state import TrainState
from jaxdp.trees import named_leaves
from jaxdp.typing import PyTree

_WRITE_ERRORS = (OSError, ValueError)
"""Exceptions of a full disk or a broken directory; TensorStore, below Orbax, raises ValueError."""

_FILE_SYSTEM_REASON = re.compile(r"([^:]+?) \[os_error_code=")
"""Position of the system's error text in a message of TensorStore."""


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
        to_portable: Callable[[TrainState], TrainState] = lambda state: state,
    ):
        """Creates the writer.

        Args:
            checkpoints: Directory that has `<step>/`; created if missing.
            retention: Retention rules.
            abstract_state: Shapes and shardings of the states as they are written.
            async_save: Whether a save continues in the background; otherwise `save` waits for it.
            check_place: Called before each save, rename and deletion; see `CheckPlace`.
            proofs: File that records intact checkpoints for the next start.
            provenance: Item of every checkpoint, plain JSON values; None: no such item.
            run_files: Files of the run; see `Manifest`.
            metrics: Declarations of the evaluation metrics, recorded in every manifest.
            to_portable: Converts a state on the devices to the form that is written, in true shapes.

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
        self._suffix = SAVING_MARK + secrets.token_hex(6)
        self._suppression = contextlib.ExitStack()
        self._suppression.enter_context(suppress_event_loop_errors())
        self._retention, self._run_files = retention, run_files
        self._metric_specs = describe_metrics(metrics)
        self._is_intact = Intactness(proofs)
        self._async_save = async_save
        self._to_portable = to_portable
        self._provenance = None if provenance is None else dict(provenance)
        # Created in the background, directories that cannot be made hold the process for minutes.
        options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(multiprocessing_options=per_process())
            ),
            async_options=options,
            multiprocessing_options=per_process(),
        )
        self._finisher = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-finisher")
        self._pending: concurrent.futures.Future | None = None
        self._last_step: int | None = None
        self._has_failed = False
        self.longest_save_secs = 0.0
        """From the call of `save` until the checkpoint counts; 0 before the first."""
        # Compiled now, so that the first save does not stop to compile.
        self._checksums = jax.jit(leaf_checksums).lower(abstract_state).compile()

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
        if jax.process_index() != 0:
            return
        if step == self._last_step or read_manifest(self._checkpoints / str(step)) is not None:
            return
        try:
            self._check_directory()
            items = {"data": dict(data_state), "config": dict(config), "provenance": self._provenance}
            self._orbax.save(
                self._unfinished(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host_copy(state)),
                    **{name: ocp.args.JsonSave(item) for name, item in items.items() if item is not None},
                ),
            )
        except _WRITE_ERRORS as error:
            raise self._failure(step, error) from error
        leaves = [
            {"path": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype)} for name, leaf in named_leaves(state)
        ]
        self._last_step = step
        self._pending = self._finisher.submit(self._finish, step, leaves, checksums, nullify_non_finite(metrics), start)
        if not self._async_save:
            self.wait()

    def _finish(self, step: int, leaves: list[dict], checksums: jax.Array, metrics: dict, start: float) -> None:
        self._orbax.wait_until_finished()
        unfinished, directory = self._unfinished(step), self._checkpoints / str(step)
        for leaf, checksum in zip(leaves, np.asarray(checksums).tolist(), strict=True):
            leaf["checksum"] = checksum
        self._check_directory()
        files = describe_files(unfinished)
        write_manifest(
            unfinished, Manifest(step, time.time(), metrics, leaves, files, self._run_files, self._metric_specs)
        )
        self._check_directory()
        _make_way(directory)
        unfinished.rename(directory)
        fsync_path(self._checkpoints)
        self.longest_save_secs = max(self.longest_save_secs, time.monotonic() - start)
        self._is_intact.trust(directory)
        apply_retention(self._checkpoints, self._retention, self._is_intact, self._check_directory)
        self._check_directory()
        self._is_intact.record(self._checkpoints)

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
        why = _FILE_SYSTEM_REASON.search(str(error))
        steps = committed_steps(self._checkpoints) if self._checkpoints.is_dir() else []
        whole = ", ".join(map(str, steps)) or "none"
        return UserError(
            f"checkpoint {step} could not be written to {self._checkpoints}: {why[1].strip() if why else error}; "
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


def host_copy(state: PyTree) -> PyTree:
    """Copies a state to NumPy arrays that no later step overwrites.

    Orbax could save device arrays directly, but it first slices each one over its
    replicas, which compiles a program for every shape (0.5 s for 93 leaves on two CPU
    cores) without a benefit for equal replicas.
    """

    def copy(leaf: jax.Array, host: np.ndarray) -> np.ndarray:
        # On CPU the host array is the device buffer, which the next step reuses.
        return host.copy() if leaf.addressable_shards[0].device.platform == "cpu" else host

    return jax.tree.map(copy, state, jax.device_get(state))
