"""Runs written by hand: configuration, metrics, starts and checkpoints of parameters alone."""

import json

import numpy as np

from jaxdp.checkpoint.parameters_only import save_parameters
from jaxdp.config import default_values

SEED = 7


def losses(steps, offset=0.0):
    """Lines of metrics.jsonl that depend on nothing but the step."""
    return [
        {
            "step": step,
            "time": 1e9 + step,
            "data/batch_hash": f"{step:016x}",
            "train/loss": float(np.float32(4 / step**0.5 + offset)),
            "train/grad_norm": float(np.float32(1 + 1 / step)),
            "train/learning_rate": 1e-3,
            "perf/step_secs": 0.1 * step + offset,
        }
        for step in steps
    ]


def start(first_step=0, count=8, **changes):
    """An entry of provenance.json."""
    return {
        "start_time": 1e9 + first_step,
        "jaxdp": {"version": "0.1.0", "commit": "a" * 40, "clean": True},
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "host": "here",
        "devices": {"platform": "cpu", "kind": "cpu", "count": count},
        "num_processes": 1,
        "first_step": first_step,
    } | changes


def write_run(directory, lines=(), changes=(), starts=None, checkpoints=()):
    """A run with some changed keys of the configuration, and parameters by step."""
    directory.mkdir()
    config = default_values()
    for key, value in dict(changes).items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = value
    (directory / "config.json").write_text(json.dumps(config))
    write_lines(directory, lines)
    if starts is not None:
        (directory / "provenance.json").write_text(json.dumps(starts))
    for step, arrays in dict(checkpoints).items():
        specs = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
        save_parameters(directory / "checkpoints", step, specs, arrays.__getitem__, config)
    return directory


def write_lines(directory, lines):
    """The metrics.jsonl of a run."""
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def parameters(num_layers=3, width=4):
    """Parameters of a model with unrolled layers, in the alphabetical order in which trees have them."""
    random = np.random.default_rng(SEED)
    names = ["final_norm/scale", "token_embedding"]
    for layer in range(num_layers):
        names += [f"layer_{layer}/{name}" for name in ("attention/query/kernel", "mlp/up/kernel", "mlp_norm/scale")]
    return {name: random.standard_normal((width, width)).astype(np.float32) for name in sorted(names)}


def scanned(arrays):
    """The same parameters with scanned layers."""
    num_layers = len({name.split("/")[0] for name in arrays if name.startswith("layer_")})
    whole = {name: array for name, array in arrays.items() if not name.startswith("layer_")}
    inner = {name.partition("/")[2] for name in arrays if name.startswith("layer_")}
    for name in inner:
        whole[f"layers/{name}"] = np.stack([arrays[f"layer_{layer}/{name}"] for layer in range(num_layers)])
    return {name: whole[name] for name in sorted(whole)}
