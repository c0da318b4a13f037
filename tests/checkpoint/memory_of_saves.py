"""Host memory of a save and a restore, measured in a process of its own.

    python tests/checkpoint/memory_of_saves.py DIRECTORY

Two CPU devices hold a state of `NUM_LEAVES` sharded arrays. Prints one line of JSON: bytes that the process
holds, size of a leaf, and the peaks of the resident set above that during a save and during a restore. On CPU devices
a state is in host memory too.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

jax.config.update("jax_num_cpu_devices", 2)

import jax.numpy as jnp  # noqa: E402

from jaxdp.checkpoint.restoring import restore  # noqa: E402
from jaxdp.checkpoint.retention import Retention  # noqa: E402
from jaxdp.checkpoint.saving import CheckpointWriter  # noqa: E402
from jaxdp.parallel.devices import Topology  # noqa: E402
from jaxdp.parallel.layout import abstract_in, placed_by, replicated_layout, sharded  # noqa: E402
from jaxdp.state import TrainState  # noqa: E402

NUM_LEAVES, ROWS, COLUMNS = 20, 4096, 1600
"""26 MB a leaf, 524 MB in all."""


def reset_peak() -> int:
    """Resets the peak of the resident set; returns its size now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    """Bytes that Linux reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    directory = Path(sys.argv[1])
    topology = Topology(tuple(jax.devices()), num_processes=1, process_index=0)
    shapes = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32), opt_state=(), ema=None, sync=(),
        skipped=jax.ShapeDtypeStruct((), jnp.int32), skipped_in_a_row=jax.ShapeDtypeStruct((), jnp.int32),
        params={f"leaf_{number:02}": jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.float32) for number in range(NUM_LEAVES)},
    )  # fmt: skip
    layout = replicated_layout(shapes).replace(params={name: sharded(0) for name in shapes.params})
    abstract = abstract_in(shapes, layout, topology)

    def values():
        keys = jax.random.split(jax.random.key(0), NUM_LEAVES)
        count = jnp.zeros((), jnp.int32)
        leaves = {
            name: jax.random.normal(key, abstract.params[name].shape)
            for name, key in zip(sorted(shapes.params), keys, strict=True)
        }
        return shapes.replace(step=count, skipped=count, skipped_in_a_row=count, params=leaves)

    state = jax.block_until_ready(placed_by(values, abstract)())
    held = sum(shard.data.nbytes for leaf in jax.tree.leaves(state.params) for shard in leaf.addressable_shards)
    writer = CheckpointWriter(directory, Retention(), abstract, async_save=False, layout=layout)
    before = reset_peak()
    writer.save(1, state, {"step": 1}, {}, {})
    saving = status("VmHWM") - before
    jax.tree.map(lambda leaf: leaf.delete(), state)
    before = reset_peak()
    restored = jax.block_until_ready(restore(directory / "1", abstract, layout, check_files=False))
    restoring = status("VmHWM") - before
    assert len(jax.tree.leaves(restored)) == NUM_LEAVES + 3
    writer.close()
    print(json.dumps({"held": held, "leaf": 4 * ROWS * COLUMNS, "saving": saving, "restoring": restoring}), flush=True)


if __name__ == "__main__":
    main()
