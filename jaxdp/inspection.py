"""Inspection of checkpoints from metadata alone, without model code and without reading arrays.

A checkpoint of jaxdp is described by its manifest, which needs neither jax nor
Orbax; a foreign Orbax directory by Orbax metadata; a safetensors file by its
header.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxdp.checkpoint.manifest import (
    MANIFEST,
    committed_steps,
    find_damage,
    read_item,
    read_manifest,
    require_manifest,
)
from jaxdp.checkpoint.retention import choose_step
from jaxdp.checkpoint.run_files import run_problems
from jaxdp.config import read_run_config
from jaxdp.errors import DamageFound, UserError
from jaxdp.nested import flatten
from jaxdp.paths import resolved_path
from jaxdp.provenance import describe_entry, describe_starts, read_entries
from jaxdp.redact import masked_values
from jaxdp.safetensors_file import read_header
from jaxdp.workdir import WorkDir

Read = TypeVar("Read")
"""Result of reading a checkpoint."""


def describe(path: str, step: str = "latest") -> dict[str, Any]:
    """Describes a work directory, a checkpoint, an Orbax directory or a .safetensors file.

    Args:
        path: Path to describe.
        step: Checkpoint of a work directory: "latest", "best" or a number.

    Returns:
        {"path", "steps", "step", "time", "config", "params", "opt_state", "ema",
        "data", "metrics", "provenance", "starts"}, None for unknown values. Arrays are
        {"path", "shape", "dtype", "bytes"}; "provenance" is the start that saved the
        checkpoint, "starts" are all starts of its run.

    Raises:
        UserError: The path is none of these.
        DamageFound: The checkpoint is damaged.
    """
    where = resolved_path(path, "PATH")
    if where.suffix == ".safetensors" and where.is_file():
        return _described(where, params=_safetensors_arrays(where))
    description = _read_steadily(where, step, _our_checkpoint)
    if description is not None:
        return description
    items = [item for item in (where, *sorted(where.glob("*/"))) if (item / "_METADATA").is_file()]
    if items:
        return _described(where, params=[array for item in items for array in _orbax_arrays(item)])
    raise UserError(
        f"{path} is no work directory with checkpoints, no checkpoint, no Orbax directory and no "
        ".safetensors file; check the path."
    )


def verify(path: str, step: str = "latest") -> str:
    """Checks every file of a checkpoint against its manifest.

    Returns:
        A sentence that says what was checked.

    Raises:
        UserError: The path is not a checkpoint of jaxdp and has no manifest.
        DamageFound: Files are missing or changed; the message names every one.
    """
    sentence = _read_steadily(resolved_path(path, "PATH"), step, _verified)
    if sentence is None:
        raise UserError(f"{path} cannot be verified: only checkpoints of jaxdp have a manifest of their files.")
    return sentence


def _verified(checkpoint: Path) -> str:
    manifest, problems = read_manifest(checkpoint), find_damage(checkpoint)
    problems = problems or run_problems(checkpoint)
    if manifest is None or problems:
        raise DamageFound("; ".join(problems) + ".")
    return f"{checkpoint}: all {len(manifest.files)} files are as they were written"


def _read_steadily(where: Path, step: str, read: Callable[[Path], Read]) -> Read | None:
    """Reads a checkpoint; if a run deletes it meanwhile, reads the one that `step` selects next."""
    while (checkpoint := _find_checkpoint(where, step)) is not None:
        try:
            return read(checkpoint)
        except UserError:
            if checkpoint.is_dir() or checkpoint == where:
                raise
    return None


def _find_checkpoint(where: Path, step: str) -> Path | None:
    """Returns the checkpoint at `where`, or the one of a work directory that `step` selects; None if there is none."""
    if (where / MANIFEST).is_file():
        return where
    run = WorkDir(where)
    if not run.checkpoints.is_dir():
        return None
    metric = read_run_config(run.config).eval.metric if step == "best" else ""
    return run.checkpoints / str(choose_step(run.checkpoints, step, metric))


def _described(path: Path, **known: Any) -> dict[str, Any]:
    keys = ("steps", "step", "time", "config", "params", "opt_state", "ema", "data", "metrics", "provenance", "starts")
    return {"path": str(path), **{key: known.get(key) for key in keys}}


def _our_checkpoint(checkpoint: Path) -> dict[str, Any]:
    manifest = require_manifest(checkpoint)
    config = read_item(checkpoint, "config")

    def item(name: str) -> dict[str, Any] | None:
        # Parameters alone have no position in data, and checkpoints of earlier versions no provenance.
        return read_item(checkpoint, name) if f"{name}/metadata" in manifest.files else None

    parts: dict[str, list] = {"params": [], "opt_state": [], "ema": []}
    for leaf in manifest.leaves:
        part, _, name = leaf["path"].partition("/")
        if part in parts:
            parts[part].append(_array(name, leaf["shape"], leaf["dtype"]))
    return _described(
        checkpoint,
        steps=committed_steps(checkpoint.parent),
        step=manifest.step,
        time=manifest.time,
        config=masked_values(config),  # older versions may have saved secrets
        data=item("data"),
        metrics=dict(manifest.metrics),
        provenance=item("provenance"),
        starts=read_entries(WorkDir(checkpoint.parent.parent).provenance),
        **parts,
    )


def _array(path: str, shape, dtype: str) -> dict[str, Any]:
    # NumPy has no bfloat16; an item has two bytes.
    try:
        item_bytes = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    except TypeError as error:
        raise DamageFound(f"the array {path!r} has the unknown dtype {dtype!r}.") from error
    return {"path": path, "shape": list(shape), "dtype": dtype, "bytes": math.prod(shape) * item_bytes}


def _safetensors_arrays(path: Path) -> list[dict[str, Any]]:
    try:
        return [_array(name, entry.shape, entry.dtype) for name, entry in sorted(read_header(path).items())]
    except ValueError as error:
        raise UserError(f"{path} is not a safetensors file: {error}.") from error


def _orbax_arrays(item: Path) -> list[dict[str, Any]]:
    import jax
    import orbax.checkpoint as ocp

    from jaxdp.trees import named_leaves

    # Orbax starts a backend, which must not take memory of an accelerator that trains.
    jax.config.update("jax_platforms", "cpu")
    saved = ocp.PyTreeCheckpointer().metadata(item).item_metadata
    if saved is None:
        raise UserError(f"{item} has no metadata of its arrays: it is no Orbax item, or not a whole one.")
    return [
        _array(name, leaf.shape, str(np.dtype(leaf.dtype)))
        for name, leaf in named_leaves(saved.tree)
        if hasattr(leaf, "shape")
    ]


def as_text(description: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Formats a description for the terminal, with the configuration values that differ from the defaults."""
    lines = [f"path     {description['path']}"]
    if description["step"] is not None:
        lines.append(f"step     {description['step']} (checkpoints: {_joined(description['steps'])})")
    if description["metrics"]:
        values = (
            f"{name.removeprefix('eval/')} {'not finite' if value is None else f'{value:.4g}'}"
            for name, value in description["metrics"].items()
        )
        lines.append(f"metrics  {', '.join(values)}")
    if description["config"]:
        usual, values = flatten(defaults), flatten(description["config"])
        changed = (f"  {key} = {value}" for key, value in values.items() if value != usual.get(key))
        lines += ["config   (values that differ from the defaults)", *changed]
    if description["data"]:
        lines.append("data     " + ", ".join(f"{key} {value}" for key, value in description["data"].items()))
    if description["provenance"]:
        lines += ["saved by", *(f"  {line}" for line in describe_entry(description["provenance"]))]
    if description["starts"]:
        lines += describe_starts(description["starts"])
    for part in ("params", "ema", "opt_state"):
        if description[part]:
            lines += _array_lines(part, description[part])
    return "\n".join(lines)


def _array_lines(part: str, arrays: list[dict[str, Any]]) -> list[str]:
    width = max(len(array["path"]) for array in arrays)
    shapes = ["x".join(map(str, array["shape"])) or "scalar" for array in arrays]
    shape_width = max(map(len, shapes))
    elements = sum(math.prod(array["shape"]) for array in arrays)
    size = sum(array["bytes"] for array in arrays)
    head = f"{part}: {len(arrays)} arrays, {elements:,} elements, {size:,} bytes"
    return [head] + [
        f"  {array['path']:<{width}}  {shape:>{shape_width}}  {array['dtype']:<8}  {array['bytes']:>12,} bytes"
        for array, shape in zip(arrays, shapes, strict=True)
    ]


def _joined(steps: list[int]) -> str:
    return ", ".join(map(str, steps))
