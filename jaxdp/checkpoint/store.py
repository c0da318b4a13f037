"""Saving and restoring train states with Orbax.

A save copies the state to the host, returns, and goes on in the background:
Orbax writes one composite {state, data, config} into a temporary directory and
renames it; then the manifest is written, which makes it count; then what no
retention rule wants is deleted. A failure of any of these surfaces at the next
call of `check`.

Every process holds the same state, so process 0 alone writes, and each reads for
itself: none waits for another inside Orbax, where nothing would say for whom.
"""

import concurrent.futures
import contextlib
import itertools
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdp.checkpoint.manifest import (
    Manifest,
    committed_steps,
    describe_files,
    find_damage,
    finite_metrics,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from jaxdp.checkpoint.retention import DAMAGED_MARK, Intactness, Retention, apply_retention
from jaxdp.checksum import leaf_checksums
from jaxdp.errors import DamageFound, UserError
from jaxdp.parallel.peers import Peers
from jaxdp.state import TrainState
from jaxdp.trees import named_leaves
from jaxdp.typing import PyTree

_WRITE_ERRORS = (OSError, ValueError)
"""What a full disk or a broken directory raises; TensorStore, below Orbax, says ValueError."""


_FILE_SYSTEM_REASON = re.compile(r"([^:]+?) \[os_error_code=")
"""Where TensorStore hides what the system said, at the end of a tale of files and offsets."""


class CheckpointWriter:
    """Saves states of one run, one at a time, in the background."""

    def __init__(
        self, checkpoints: Path, retention: Retention, abstract_state: TrainState, *, async_save: bool
    ):
        """
        Args:
            checkpoints: the directory that holds `<step>/`; made if missing.
            retention: which ones are kept.
            abstract_state: shapes and shardings of the states to come.
            async_save: False waits for each save.
        """
        checkpoints.mkdir(parents=True, exist_ok=True)
        self._checkpoints = checkpoints.resolve()
        self._echoes = contextlib.ExitStack()
        self._echoes.enter_context(_without_echoes())
        self._retention = retention
        self._is_intact = Intactness()
        self._async_save = async_save
        # Created in the background, directories that cannot be made hold the process for minutes.
        options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(multiprocessing_options=_by_itself())
            ),
            async_options=options,
            multiprocessing_options=_by_itself(),
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
        """Starts saving; returns when `state` may be donated. Saving a step again is a no-op.

        Raises:
            UserError: the previous save failed, or this one cannot begin.
        """
        self.wait()
        start = time.monotonic()
        checksums = self._checksums(state)  # on all processes: programs run everywhere or nowhere
        if jax.process_index() != 0:
            return
        if step == self._last_step or read_manifest(self._checkpoints / str(step)) is not None:
            return
        try:
            if not self._checkpoints.is_dir():
                raise FileNotFoundError("the directory is gone")
            self._orbax.save(
                self._checkpoints / str(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host_copy(state)),
                    data=ocp.args.JsonSave(dict(data_state)),
                    config=ocp.args.JsonSave(dict(config)),
                ),
            )
        except _WRITE_ERRORS as error:
            raise self._failure(step, error) from error
        leaves = [
            {"path": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}
            for name, leaf in named_leaves(state)
        ]
        self._last_step = step
        self._pending = self._finisher.submit(
            self._finish, step, leaves, checksums, finite_metrics(metrics), start
        )
        if not self._async_save:
            self.wait()

    def _finish(
        self, step: int, leaves: list[dict], checksums: jax.Array, metrics: dict, start: float
    ) -> None:
        self._orbax.wait_until_finished()
        directory = self._checkpoints / str(step)
        for leaf, checksum in zip(leaves, np.asarray(checksums).tolist(), strict=True):
            leaf["checksum"] = checksum
        write_manifest(
            directory, Manifest(step, time.time(), metrics, leaves, describe_files(directory))
        )
        self.longest_save_secs = max(self.longest_save_secs, time.monotonic() - start)
        self._is_intact.trust(directory)
        apply_retention(self._checkpoints, self._retention, self._is_intact)

    def check(self) -> None:
        """Raises UserError if the save that ended last failed; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is a checkpoint.

        Raises:
            UserError: it failed; the checkpoints before it are untouched.
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
        why = _FILE_SYSTEM_REASON.search(str(error))
        self._has_failed = True
        whole = ", ".join(map(str, committed_steps(self._checkpoints))) or "none"
        return UserError(
            f"checkpoint {step} could not be written to {self._checkpoints}: {why[1].strip() if why else error}; "
            f"whole checkpoints there: {whole}; "
            "make room or mend the directory and run the same command again."
        )

    def close(self) -> None:
        """Waits for the last save and ends the background threads.

        Raises:
            UserError: see `wait`; or what Orbax still had to write could not be written.
        """
        try:
            self.wait()
        finally:
            self._finisher.shutdown()
            try:
                self._orbax.close()
            except _WRITE_ERRORS as error:
                if not self._has_failed:  # else it is the same disk, of which was told already
                    raise self._failure(self._last_step, error) from error
            finally:
                self._echoes.close()


@contextlib.contextmanager
def _without_echoes() -> Iterator[None]:
    """Silences what TensorStore raises, where nobody listens, for every array after the first that failed or was interrupted.

    After an error it stays silent, since the echoes come later.
    """
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
    yield
    sys.unraisablehook = show


def host_copy(state: PyTree) -> PyTree:
    """The state as NumPy arrays of its own memory, which no later step overwrites.

    Orbax would save the arrays from the devices too, but slices each one over
    its replicas first, which compiles a program for every shape (0.5 s at the
    first save of 93 leaves) and has nothing to gain when all replicas are equal.
    """

    def copy(leaf: jax.Array, host: np.ndarray) -> np.ndarray:
        # On CPU the host array is the device's own buffer, which the next step takes over.
        return host.copy() if leaf.addressable_shards[0].device.platform == "cpu" else host

    return jax.tree.map(copy, state, jax.device_get(state))


def restore(
    checkpoint: Path, abstract_state: TrainState, *, check_files: bool = True
) -> TrainState:
    """The whole train state, placed as `abstract_state` says, on however many devices.

    Args:
        checkpoint: its directory.
        abstract_state: shapes, dtypes and shardings.
        check_files: False: they have been compared with the manifest just now.

    Raises:
        DamageFound: files or restored values are not those that were saved.
        UserError: the checkpoint holds another model; both sides are shown.
    """
    manifest = _whole_manifest(checkpoint, check_files=check_files)
    check_same_arrays(checkpoint, manifest.leaves, abstract_state)
    state = _read_state(checkpoint, abstract_state, partial=False)
    found = np.asarray(jax.jit(leaf_checksums)(state)).tolist()
    for leaf, checksum in zip(manifest.leaves, found, strict=True):
        if leaf["checksum"] != checksum:
            raise DamageFound(
                f"{leaf['path']} restored from {checkpoint} is not what was saved "
                f"(checksum {checksum}, expected {leaf['checksum']})."
            )
    return state


def restore_part(checkpoint: Path, part: str, abstract: PyTree) -> PyTree:
    """Only `params` or `ema` of a checkpoint, for evaluation, generation and a new start.

    Raises:
        DamageFound: files are not those that were saved.
        UserError: the checkpoint holds another model; both sides are shown.
    """
    manifest = _whole_manifest(checkpoint)
    leaves = [leaf for leaf in manifest.leaves if leaf["path"].startswith(f"{part}/")]
    check_same_arrays(checkpoint, leaves, {part: abstract})
    return _read_state(checkpoint, {part: abstract}, partial=True)[part]


def restore_latest(
    checkpoints: Path,
    abstract_state: TrainState,
    report: Callable[[str], None],
    last_step: int | None = None,
    *,
    peers: Peers | None = None,
) -> TrainState | None:
    """The newest undamaged state up to `last_step`; None where there is no checkpoint.

    A damaged one is named through `report`, set aside as `<step>.damaged` and
    the one before it is used. Process 0 decides which one is tried and sets it
    aside where any process finds it damaged, so that all restore the same.

    Raises:
        DamageFound: there are checkpoints, and all are damaged.
        UserError: a process does not see the checkpoint that process 0 sees.
    """
    peers = peers or Peers.alone()
    found_any = False
    while True:
        steps = [step for step in committed_steps(checkpoints) if last_step is None or step <= last_step]
        step = peers.tell(steps[-1] if steps else None)
        if step is None:
            break
        found_any = True
        directory = checkpoints / str(step)
        state, problem = _restore_together(directory, abstract_state, peers)
        if problem is None:
            return state
        aside = peers.tell(str(_free_name(directory)))
        report(f"checkpoint {step} is damaged and set aside as {aside}: {problem}")
        if peers.is_first:
            directory.rename(aside)
    if found_any:
        raise DamageFound(
            f"every checkpoint in {checkpoints} is damaged and set aside; run the same command again "
            "to train from the start, or restore them from a copy."
        )
    return None


def _restore_together(
    directory: Path, abstract_state: TrainState, peers: Peers
) -> tuple[TrainState | None, str | None]:
    """The state, and what is wrong with it in the eyes of any process."""
    _check_seen(directory, peers)
    problems = peers.tell(find_damage(directory) if peers.is_first else None)
    if problems:
        return None, "; ".join(problems) + "."
    state, problem = None, None
    try:
        state = restore(directory, abstract_state, check_files=False)
    except DamageFound as damage:
        problem = str(damage)
    return state, next(filter(None, peers.gather(problem)), None)


def _check_seen(directory: Path, peers: Peers) -> None:
    """Raises UserError, in every process, if one of them sees another checkpoint than process 0."""
    seen = peers.gather(manifest_digest(directory))
    for process, digest in enumerate(seen):
        if digest != seen[0]:
            raise UserError(
                f"process {process} on {peers.hosts[process]} does not see checkpoint {directory} as process 0 on "
                f"{peers.hosts[0]} does; --workdir must be one directory that all machines share."
            )


def _free_name(directory: Path) -> Path:
    """`<step>.damaged`, or with a number where damage to this step was found before."""
    names = itertools.chain([DAMAGED_MARK], (f"{DAMAGED_MARK}.{number}" for number in itertools.count(2)))
    paths = (directory.with_name(directory.name + name) for name in names)
    return next(path for path in paths if not path.exists())


def check_same_arrays(
    checkpoint: Path, leaves: Sequence[Mapping[str, Any]], abstract: PyTree
) -> None:
    """Compares arrays on disk with those wanted, by name, shape and dtype.

    Args:
        checkpoint: for the message.
        leaves: the entries of its manifest.
        abstract: what is wanted, a tree of the same names.

    Raises:
        UserError: they differ; both sides are shown.
    """

    def described(path, shape, dtype):
        return path, f"{path} {dtype}{list(shape)}"

    saved = dict(described(leaf["path"], leaf["shape"], leaf["dtype"]) for leaf in leaves)
    wanted = dict(described(name, leaf.shape, leaf.dtype) for name, leaf in named_leaves(abstract))
    if saved == wanted:
        return
    only_saved = sorted(set(saved.values()) - set(wanted.values()))
    only_wanted = sorted(set(wanted.values()) - set(saved.values()))
    raise UserError(
        f"{checkpoint} holds another model or optimizer than the configuration describes.\n"
        f"  only in the checkpoint:    {_shortened(only_saved)}\n"
        f"  only in the configuration: {_shortened(only_wanted)}\n"
        "Use the configuration that it was trained with (config.json of its run), or another "
        "--workdir or init_from."
    )


def _shortened(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _whole_manifest(checkpoint: Path, *, check_files: bool = True) -> Manifest:
    manifest = read_manifest(checkpoint)
    problems = find_damage(checkpoint) if check_files or manifest is None else []
    if problems:
        raise DamageFound("; ".join(problems) + ".")
    return manifest


def _read_state(checkpoint: Path, target: PyTree, *, partial: bool) -> PyTree:
    """Reads into host memory once, then places the leaves that have a sharding."""
    reader = ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=_by_itself()),
        multiprocessing_options=_by_itself(),
    )
    on_host = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), target)
    with _without_echoes():
        arrays = reader.restore(
            checkpoint.resolve() / "state",
            args=ocp.args.PyTreeRestore(item=target, restore_args=on_host, partial_restore=partial),
        )
    return jax.tree.map(_placed, arrays, target)


def _placed(array: np.ndarray, wanted: Any) -> Any:
    if getattr(wanted, "sharding", None) is None:
        return array
    return jax.make_array_from_callback(wanted.shape, wanted.sharding, lambda index: array[index])


def _by_itself() -> ocp.options.MultiprocessingOptions:
    """Orbax as if there were no other process."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )
