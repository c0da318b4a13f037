"""Faults put into a run from outside; as a script, `jaxdp` with a fault: `faults.py FAULT ... -- train ...`.

A fault is written NAME or NAME=NUMBER,NUMBER...
"""

import dataclasses
import hashlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from replicas import flip_bit_of

from jaxdp.checkpoint import shard_records
from jaxdp.cli.main import main
from jaxdp.data import assembly as data
from jaxdp.data.loader import IndexedLoader
from jaxdp.hooks.preemption import Preemption
from jaxdp.storage import cloud_store, lease
from jaxdp.training import train
from jaxdp.training.setup import TrainingSetup

KERNEL = "params/layer_0/mlp/up/kernel"
SCALE = "params/layer_0/mlp_norm/scale"


def hang_for_ever():
    threading.Event().wait()


def hang_before(patch, step):
    """The step never begins, as when a peer in a collective is gone."""

    def on_dispatch(hook, dispatched, state):
        if dispatched == step - 1:
            hang_for_ever()

    patch(Preemption, "on_dispatch", on_dispatch)


def hang_reading(patch, step):
    """The batches from this step on never come, as from a file system that does not answer."""
    _before_each_batch(patch, lambda batch_step: hang_for_ever() if batch_step >= step else None)


def slow_reading(patch, millisecs):
    """Every batch comes this much later."""
    _before_each_batch(patch, lambda batch_step: time.sleep(millisecs / 1000))


def _before_each_batch(patch, act):
    batches_from = IndexedLoader.batches

    def batches(loader, first_step):
        for step, batch in enumerate(batches_from(loader, first_step), first_step):
            act(step)
            yield batch

    patch(IndexedLoader, "batches", batches)


def hang_in_preparation(patch):
    """The data are never there; a file `preparing` next to the log says that the run waits for them."""

    def prepare_run(*_):
        log = next(
            handler for handler in logging.getLogger("jaxdp").handlers if isinstance(handler, logging.FileHandler)
        )
        Path(log.baseFilename).with_name("preparing").touch()
        hang_for_ever()

    patch(train, "prepare_run", prepare_run)


def hold_up_compilation(patch):
    """For half a minute no Python runs in the main thread."""

    def compile_step(setup):
        Path(setup.config.data.path).with_name("compiling").touch()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000_000)

    patch(TrainingSetup, "compile_step", compile_step)


def flip_after(patch, step, position, name=KERNEL):
    """A bit of one device's copy of a parameter flips after this step; says whether it has."""
    flipped = []
    compile_step = TrainingSetup.compile_step

    def faulty(setup):
        program = compile_step(setup)

        def call(state, batch, control_word):
            state, metrics = program.call(state, batch, control_word)
            if int(state.step) == step and not flipped:
                flipped.append(step)
                state = flip_bit_of(state, name, setup.topology.devices[position], element=3, bit=2)
            return state, metrics

        return dataclasses.replace(program, call=call)

    patch(TrainingSetup, "compile_step", faulty)
    return flipped


def poison(patch, *slots, num_rows=2):
    """The first rows of these slots hold a token that no embedding has, which makes them NaN."""
    batches_from = IndexedLoader.batches

    def batches(feed, first_step):
        for step, batch in enumerate(batches_from(feed, first_step), first_step):
            [slot] = feed.slots([step])
            is_poisoned = (batch["row_ids"] < num_rows)[:, None] & (slot in slots)
            yield {**batch, "tokens": np.where(is_poisoned, np.int32(10**6), batch["tokens"])}

    patch(IndexedLoader, "batches", batches)


def change_data_after_scan(patch):
    """The text is rewritten after it was scanned, with as many characters."""
    open_sources = data.open_sources

    def opened(spec):
        sources = open_sources(spec)
        path = Path(spec.data.path)
        path.write_bytes(path.read_bytes()[::-1])
        return sources

    patch(data, "open_sources", opened)


def die_writing_shards(patch, step):
    """SIGKILL while the shards of the checkpoint of this step are on their way to the disk."""
    write_file = shard_records.write_file

    def write(path, arrays):
        write_file(path, arrays)
        if path.parent.name.startswith(f"{step}."):
            os.kill(os.getpid(), signal.SIGKILL)

    patch(shard_records, "write_file", write)


def die_after_checkpoint(patch, step):
    """SIGKILL in a later step, once the checkpoint of this one is complete; the log shows where the run is."""

    def on_dispatch(hook, dispatched, state):
        if dispatched > step:
            log = next(
                handler for handler in logging.getLogger("jaxdp").handlers if isinstance(handler, logging.FileHandler)
            )
            manifest = Path(log.baseFilename).parents[1] / "checkpoints" / str(step) / "manifest.json"
            while not manifest.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    patch(Preemption, "on_dispatch", on_dispatch)


def die_at_request(patch, number):
    """SIGKILL at the put or deletion of this number: before it if the number is even, else when the server has answered."""
    requests, lock = itertools.count(1), threading.Lock()

    def dying(operation):
        def request(*arguments):
            with lock:
                this = next(requests)
            if this == number and number % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            operation(*arguments)
            if this == number:
                os.kill(os.getpid(), signal.SIGKILL)

        return request

    for name in ("put", "delete"):
        patch(cloud_store.CloudStore, name, dying(getattr(cloud_store.CloudStore, name)))


def short_lease(patch, secs):
    """The lease of a killed process in object storage is over soon."""
    for name, factor in {"DURATION_SECS": 1, "RENEW_SECS": 0.2, "MARGIN_SECS": 0.5, "SKEW_SECS": 0.3}.items():
        patch(lease, name, secs * factor)


FAULTS = {
    "die_at_request": die_at_request,
    "die_after_checkpoint": die_after_checkpoint,
    "change_data_after_scan": change_data_after_scan,
    "die_writing_shards": die_writing_shards,
    "hang_before": hang_before,
    "hang_reading": hang_reading,
    "slow_reading": slow_reading,
    "hang_in_preparation": hang_in_preparation,
    "hold_up_compilation": hold_up_compilation,
    "flip_after": flip_after,
    "poison": poison,
    "short_lease": short_lease,
}

if __name__ == "__main__":
    end = sys.argv.index("--")
    for fault in sys.argv[1:end]:
        name, _, numbers = fault.partition("=")
        FAULTS[name](setattr, *map(int, filter(None, numbers.split(","))))
    sys.exit(main(sys.argv[end + 1 :]))
