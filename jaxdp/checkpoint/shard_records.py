"""Shards of a checkpoint: the file that each process writes, its record, and the wait of process 0 for all records.

Process p writes its ranges of all sharded leaves as `shards_<p>.safetensors` into a directory next to the unfinished
checkpoint, and then a record with the size and SHA-256 of that file. Process 0 waits for all records and moves the
files into the checkpoint before it commits it, so a checkpoint with the shards of some processes never counts.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
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
    directory, item = _shards_directory(unfinished), shards_item(process)
    directory.mkdir(exist_ok=True)
    path = shards_file(directory, item)
    write_file(path, blocks)
    for changed in (path, directory):
        fsync_path(changed)
    held = {name: dataclasses.asdict(part) for name, part in ranges.items()}
    with atomic_replacement(_record(unfinished, process), fsync=True) as temporary:
        temporary.write_text(json.dumps({"ranges": held, "file": describe_file(path)}), encoding="utf-8")


def collect_shards(unfinished: Path, control_plane: ControlPlane) -> list[ShardRecord]:
    """Waits for the shards of all processes and moves their files into the unfinished checkpoint.

    Raises:
        ProcessLost: A process is gone, or has not written its shards in time.
        OSError: The shards of a process are not what it recorded.
    """
    processes = range(control_plane.num_processes)
    _wait_for_records(unfinished, processes, control_plane)
    records = [_read_record(unfinished, process) for process in processes]
    directory = _shards_directory(unfinished)
    for record in records:
        shards_file(directory, record.item).rename(shards_file(unfinished, record.item))
    problems = changed_files(unfinished, files_of(records), read_contents=False)
    if problems:
        raise OSError("; ".join(problems))
    for process in processes:
        _record(unfinished, process).unlink()
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


def _shards_directory(unfinished: Path) -> Path:
    return unfinished.with_name(f"{unfinished.name}{SHARDS_MARK}")


def _record(unfinished: Path, process: int) -> Path:
    return _shards_directory(unfinished) / f"{shards_item(process)}.json"


def _read_record(unfinished: Path, process: int) -> ShardRecord:
    content = parse_json(_record(unfinished, process).read_bytes())
    ranges = {name: Range(**held) for name, held in content["ranges"].items()}
    return ShardRecord(shards_item(process), ranges, content["file"])


def _wait_for_records(unfinished: Path, processes: Sequence[int], control_plane: ControlPlane) -> None:
    end = time.monotonic() + MAX_WAIT_SECS
    while missing := [process for process in processes if not _record(unfinished, process).exists()]:
        if control_plane.loss is not None:
            raise control_plane.loss
        if time.monotonic() > end:
            who = ", ".join(f"process {process} on {control_plane.hosts[process]}" for process in missing)
            raise ProcessLost(
                f"checkpoint {unfinished.name.partition('.')[0]} is not committed: {who} did not write its shards into "
                f"{unfinished.parent} within {MAX_WAIT_SECS:g} s; read the log of that process, then run the same "
                "command again."
            )
        time.sleep(POLL_SECS)
