"""Peak host memory of `jaxdp import`, above that of a tiny model, as multiples of the weights.

    python tests/interop/import_memory.py DIR

writes a GPT-2 of the small size (498 MB in float32) of random weights to DIR and imports it in processes of their own. Of a process, `VmHWM` is
the peak with mapped pages of files, which the kernel can drop, and `anonymous` the largest sum of memory that it cannot, sampled.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tiny_folders import gpt2_shapes

from jaxdp.safetensors_file import write_arrays

HEADS = 4
SMALL = {"vocab": 50257, "length": 1024, "width": 768, "hidden": 3072, "layers": 12}
TINY = {"vocab": 97, "length": 32, "width": 32, "hidden": 64, "layers": 2}
MIB = 2**20


def write_model(folder: Path, size: dict) -> int:
    """Writes a GPT-2 of random weights, one array at a time, and returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": size["vocab"], "n_positions": size["length"],
        "n_embd": size["width"], "n_layer": size["layers"], "n_head": HEADS, "n_inner": size["hidden"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    shapes = gpt2_shapes(**size, has_masks=False)

    def make(name):
        return 0.02 * rng.standard_normal(shapes[name], dtype=np.float32)

    write_arrays(folder / "model.safetensors", {name: ("float32", shape) for name, shape in shapes.items()}, make)
    return sum(4 * int(np.prod(shape)) for shape in shapes.values())


def peak_of(folder: Path) -> tuple[int, int, float]:
    """Imports a folder; returns VmHWM and the largest anonymous memory in bytes, and the seconds."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as workdir:
        start = time.monotonic()
        command = [sys.executable, "-m", "jaxdp", "import", f"--from={folder}", f"--workdir={workdir}/work"]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "JAX_PLATFORMS": "cpu"})
        anonymous = whole = 0
        while running.poll() is None:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{running.pid}/status").read_text().splitlines())
            if "VmHWM" in status:
                anonymous = max(anonymous, int(status["RssAnon"].split()[0]) * 1024)
                whole = int(status["VmHWM"].split()[0]) * 1024
            time.sleep(0.005)
        if running.returncode:
            raise SystemExit(running.stderr.read().decode())
        return whole, anonymous, time.monotonic() - start


def main(directory: str) -> None:
    """Measures and prints."""
    root = Path(directory)
    weights = write_model(root / "small", SMALL)
    write_model(root / "tiny", TINY)
    base, found = peak_of(root / "tiny"), peak_of(root / "small")
    print(f"weights {weights / MIB:.0f} MiB; tiny model: VmHWM {base[0] / MIB:.0f}, anonymous {base[1] / MIB:.0f} MiB")
    for name, small, large in zip(("VmHWM", "anonymous"), base, found[:2], strict=False):
        print(
            f"{name:<10} {large / MIB:6.0f} MiB, {(large - small) / weights:.2f} times the weights above the tiny model"
        )
    print(f"{found[2]:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
