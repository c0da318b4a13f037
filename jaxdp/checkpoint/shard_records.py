"""Shards of a checkpoint: the file that each process writes, its record, and the wait of process 0 for all records.

Process p writes its ranges of all sharded leaves as `shards_<p>.safetensors` into a directory next to the unfinished
checkpoint, and then a record with the size and SHA-256 of that file. Process 0 waits for all records and moves the
files into the checkpoint before it commits it, so a checkpoint with the shards of some processes never counts. Of a run
in object storage the machines share no directory, and the records of the others come from the store, see `remote_shards`.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.atomic_files import atomic_replacement, fsync_path
from jaxdp.checkpoint.files import changed_files, describe_file
from jaxdp.checkpoint.names import SHARDS_MARK, shards_file
from jaxdp.errors import ProcessLost
from jaxdp.json_files import parse_json
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.host_blocks import Range
from jaxdp.safetensors_file import write_file

MAX_WAIT_SECS = 1800.0
"""Time that the other processes have to write their shards once those of process 0 are on disk."""

POLL_SECS = 0.05


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """Shards of one process, complete on disk.

    Attributes:
        item: Name of the item, that of its file without the suffix.
        ranges: Path of a leaf -> range of it that the item has.
        file: {"bytes", "sha256"} of the file.
    """

    item: str
    ranges: Mapping[str, Range]
    file: Mapping[str, Any]


def shards_item(process: int) -> str:
    """Returns the name of the item that a process writes."""
    return f"shards_{process}"


def write_shards(unfinished: Path, process: int, blocks: Mapping[str, np.ndarray], ranges: Mapping[str, Range]) -> None:
    """Writes the shards of a process to disk, and then the record that they are complete.

    Args:
        unfinished: Directory of the unfinished checkpoint, which process 0 creates.
        process: Index of the process.
        blocks: Path of a leaf -> this process's range of it.
        ranges: Path of a leaf -> which range that is.

    Raises:
        OSError: A file cannot be written.
    """
    directory, item = shards_directory(unfinished), shards_item(process)
    directory.mkdir(exist_ok=True)
    path = shards_file(directory, item)
    write_file(path, blocks)
    for changed in (path, directory):
        fsync_path(changed)
    held = {name: dataclasses.asdict(part) for name, part in ranges.items()}
    with atomic_replacement(record_file(unfinished, process), fsync=True) as temporary:
        temporary.write_text(json.dumps({"ranges": held, "file": describe_file(path)}), encoding="utf-8")


def collect_shards(
    unfinished: Path,
    control_plane: ControlPlane,
    find_elsewhere: Callable[[set[int]], Mapping[int, ShardRecord]] | None = None,
    poll_secs: float = POLL_SECS,
) -> list[ShardRecord]:
    """Waits for the shards of all processes and moves those on this disk into the unfinished checkpoint.

    Args:
        unfinished: Directory of the unfinished checkpoint.
        control_plane: Control plane of the processes; this is process 0.
        find_elsewhere: Function from processes to the records of those whose shards are complete elsewhere; None: all
            processes write into one directory.
        poll_secs: Time between two looks.

    Raises:
        ProcessLost: A process is gone, or has not written its shards in time.
        OSError: The shards of a process are not what it recorded.
    """
    on_disk = range(1 if find_elsewhere else control_plane.num_processes)

    def find(missing: set[int]) -> dict[int, ShardRecord]:
        paths = {process: record_file(unfinished, process) for process in missing if process in on_disk}
        found = {process: read_record(path.read_bytes(), process) for process, path in paths.items() if path.exists()}
        elsewhere = missing - paths.keys()
        return found | dict(find_elsewhere(elsewhere) if find_elsewhere and elsewhere else {})

    records = _wait_for_records(unfinished, control_plane, find, poll_secs)
    directory = shards_directory(unfinished)
    own = records[: len(on_disk)]
    for record in own:
        shards_file(directory, record.item).rename(shards_file(unfinished, record.item))
    problems = changed_files(unfinished, files_of(own), read_contents=False)
    if problems:
        raise OSError("; ".join(problems))
    for process in on_disk:
        record_file(unfinished, process).unlink()
    directory.rmdir()
    return records


def files_of(records: Sequence[ShardRecord]) -> dict[str, Mapping[str, Any]]:
    """Returns the files of all shards, as in `Manifest.files`."""
    return {shards_file(Path(), record.item).name: record.file for record in records}


def pieces_of(records: Sequence[ShardRecord]) -> dict[str, dict[str, Any]]:
    """Returns the pieces of all leaves, as in `Manifest.pieces`; of a range that several processes hold, the first piece."""
    pieces: dict[str, dict[str, Any]] = {}
    for record in records:
        for name, held in record.ranges.items():
            entry = pieces.setdefault(name, {"axis": held.axis, "ranges": {}})
            if [held.start, held.stop] not in entry["ranges"].values():
                entry["ranges"][record.item] = [held.start, held.stop]
    return pieces


def shards_directory(unfinished: Path) -> Path:
    """Returns the directory next to an unfinished checkpoint into which processes write their shards."""
    return unfinished.with_name(f"{unfinished.name}{SHARDS_MARK}")


def record_file(unfinished: Path, process: int) -> Path:
    """Returns the path of the record of a process."""
    return shards_directory(unfinished) / f"{shards_item(process)}.json"


def read_record(content: bytes, process: int) -> ShardRecord:
    """Parses the record of a process."""
    fields = parse_json(content)
    ranges = {name: Range(**held) for name, held in fields["ranges"].items()}
    return ShardRecord(shards_item(process), ranges, fields["file"])


def _wait_for_records(
    unfinished: Path,
    control_plane: ControlPlane,
    find: Callable[[set[int]], Mapping[int, ShardRecord]],
    poll_secs: float,
) -> list[ShardRecord]:
    """Returns the records of all processes in the order of their indices, once `find` has found them."""
    end, records = time.monotonic() + MAX_WAIT_SECS, {}
    while True:
        records |= find(set(range(control_plane.num_processes)) - records.keys())
        missing = [process for process in range(control_plane.num_processes) if process not in records]
        if not missing:
            return [records[process] for process in range(control_plane.num_processes)]
        if control_plane.loss is not None:
            raise control_plane.loss
        if time.monotonic() > end:
            who = ", ".join(f"process {process} on {control_plane.hosts[process]}" for process in missing)
            raise ProcessLost(
                f"checkpoint {unfinished.name.partition('.')[0]} is not committed: {who} did not write its shards within "
                f"{MAX_WAIT_SECS:g} s; read the log of that process, then run the same "
                "command again."
            )
        time.sleep(poll_secs)
