"""Shards of a checkpoint in object storage: what each process but process 0 puts, and its record there.

Process p puts `checkpoints/<step>/shards_<p>.safetensors`, which is the name in the checkpoint, and then `shards_<p>.json`,
its record: ranges, size, SHA-256, and the save that it belongs to. The manifest is put after all records have been read, and
without it nothing below `checkpoints/<step>/` counts. Records are deleted before the manifest is put.
"""

import json
from collections.abc import Callable
from pathlib import Path

from jaxdp.checkpoint.names import leftover_step, shards_file
from jaxdp.checkpoint.remote_steps import object_key
from jaxdp.checkpoint.shard_records import ShardRecord, read_record, record_file, shards_directory, shards_item
from jaxdp.json_files import parse_json
from jaxdp.storage.object_store import ObjectStore

POLL_SECS = 1.0
"""Time between two looks of process 0 at the store."""


def put_shards(store: ObjectStore, check_write: Callable[[], None], unfinished: Path, process: int) -> None:
    """Puts the shards of a process, which are on its disk, and then their record.

    Args:
        store: Work directory.
        check_write: Called before each object is put.
        unfinished: Directory of the unfinished checkpoint.
        process: Index of the process.

    Raises:
        StorageError: An object cannot be put.
    """
    path = shards_file(shards_directory(unfinished), shards_item(process))
    record = parse_json(record_file(unfinished, process).read_bytes())
    check_write()
    store.put(object_key(_step(unfinished), path.name), path)
    check_write()
    store.put(_record_key(unfinished, process), json.dumps({"save": unfinished.name, **record}).encode())


def find_records(store: ObjectStore, unfinished: Path, processes: set[int]) -> dict[int, ShardRecord]:
    """Returns the records of those processes whose shards are in the store.

    Raises:
        StorageError: The store cannot be read.
    """
    keys = {info.key for info in store.list(object_key(_step(unfinished)))}
    found = {}
    for process in sorted(processes):
        if (key := _record_key(unfinished, process)) in keys:
            content = store.read(key)[0]
            if parse_json(content)["save"] == unfinished.name:
                found[process] = read_record(content, process)
    return found


def _record_key(unfinished: Path, process: int) -> str:
    return object_key(_step(unfinished), f"{shards_item(process)}.json")


def _step(unfinished: Path) -> int:
    step = leftover_step(unfinished.name)
    assert step is not None, "the name of an unfinished checkpoint begins with its step"
    return step
