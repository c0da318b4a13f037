"""Time and memory of `jaxdp inspect` for checkpoints of 10 GB: makes them as sparse files and runs the command.

python tests/inspection/big_checkpoint.py DIR
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jaxdp.checkpoint.files import describe_file
from jaxdp.checkpoint.manifest import Manifest, write_manifest
from jaxdp.config import parse_config, to_json

WIDTH, LAYERS = 2048, 48
NAMES = ("attention/query", "attention/key", "attention/value", "attention/out", "mlp/up_0", "mlp/up_1", "mlp/down_0")


def shapes(scale: int) -> dict[str, tuple[int, ...]]:
    """Returns shapes of about 1.4 GB of float32 for each unit of scale."""
    return {
        f"layer_{layer}/{name}/kernel": (WIDTH, WIDTH * scale) for layer in range(LAYERS) for name in NAMES
    }  # fmt: skip


def write_safetensors(path: Path) -> None:
    """Writes a file of 11 GB whose arrays are holes."""
    specs = {name: ("float32", shape) for name, shape in shapes(2).items()}
    header, offset = {}, 0
    for name, (_, shape) in specs.items():
        end = offset + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def write_run(root: Path) -> None:
    """Writes a work directory with a checkpoint of parameters, their average and two moments."""
    checkpoint = root / "checkpoints" / "1000"
    (checkpoint / "config").mkdir(parents=True)
    (checkpoint / "state").mkdir()
    config = to_json(parse_config({"task": "causal_lm", "total_steps": 1000}))
    for path in (root / "config.json", checkpoint / "config" / "metadata"):
        path.write_text(json.dumps(config))
    data = checkpoint / "state" / "data"
    leaves = [
        {"path": f"{part}/{name}", "shape": list(shape), "dtype": "float32", "checksum": 0}
        for part in ("params", "ema", "opt_state/0/mu", "opt_state/0/nu")
        for name, shape in shapes(1).items()
    ]
    size = sum(4 * int(np.prod(leaf["shape"])) for leaf in leaves)
    with open(data, "wb") as file:
        file.truncate(size)
    files = {
        "config/metadata": describe_file(checkpoint / "config" / "metadata"),
        "state/data": {"bytes": size, "sha256": "0" * 64},
    }
    write_manifest(checkpoint, Manifest(1000, time.time(), {"eval/loss": 2.5}, leaves, files))


def write_orbax(path: Path) -> None:
    """Writes an Orbax directory of 10 GB of zeros, which compress to nothing."""
    code = (
        "import sys, numpy as np, orbax.checkpoint as ocp\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from big_checkpoint import shapes\n"
        "tree = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes(2).items()}\n"
        "ocp.PyTreeCheckpointer().save(sys.argv[1], tree)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(Path(__file__).parent)], check=True)


def measure(path: Path, *options: str) -> str:
    """Returns seconds and the peak of memory of `jaxdp inspect`, imports included."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxdp", "inspect", str(path), *options], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"jaxdp inspect {path} failed: {status}")
    return f"{time.monotonic() - start:.2f} s, {usage.ru_maxrss / 1024:.0f} MiB"


def main() -> None:
    """Makes the checkpoints and measures each three times."""
    root = Path(sys.argv[1]).resolve()
    root.mkdir(parents=True, exist_ok=True)
    makers = {"model.safetensors": write_safetensors, "run": write_run, "orbax": write_orbax}
    for name, make in makers.items():
        if not (root / name).exists():
            make(root / name)
        for options in ([], ["--json"]):
            times = ", ".join(measure(root / name, *options) for _ in range(3))
            print(f"inspect {' '.join([name, *options])}: {times}", flush=True)
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
