"""Description of a path from metadata alone, without model code and without reading arrays.

A checkpoint of jaxdp is described by its manifest, an Orbax directory by its
metadata, safetensors by their headers; none of these needs jax.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import committed_steps, read_item, require_manifest
from jaxdp.checkpoint.remote_copy import place_of
from jaxdp.errors import DamageFound, UserError
from jaxdp.inspection.opening import is_run, open_foreign, read_steadily
from jaxdp.interop.source import ArraySpec
from jaxdp.json_files import read_json
from jaxdp.provenance import read_entries
from jaxdp.redact import masked_values
from jaxdp.report.curves import read_last_values
from jaxdp.workdir import WorkDir

PARTS = ("params", "ema", "opt_state")
"""Parts of a train state."""

RUN = "run"
"""Kind of a run that has no checkpoint yet."""

_FOREIGN_PARTS = {"ema": "ema", "ema_params": "ema", "opt_state": "opt_state", "optimizer": "opt_state"}
"""Element of a path in a foreign train state -> part."""


def describe(path: str, step: str = "latest") -> dict[str, Any]:
    """Describes a work directory, a checkpoint, an Orbax directory, safetensors or a Hugging Face folder.

    Args:
        path: Path to describe, `hf:NAME` or a URL.
        step: Checkpoint of a work directory: "latest", "best" or a number.

    Returns:
        {"path", "kind", "steps", "step", "time", "config", "params", "opt_state", "ema",
        "data", "metrics", "provenance", "starts"}, None for unknown values. Arrays are
        {"path", "shape", "dtype", "bytes"}; "provenance" is the start that saved the
        checkpoint, "starts" are all starts of its run.

    Raises:
        UserError: The path is none of these.
        DamageFound: The checkpoint is damaged.
    """
    return read_steadily(path, step, _our_checkpoint) or _foreign(path, step)


def describe_unsaved(path: str) -> dict[str, Any] | None:
    """Describes a run that has no checkpoint yet; None for every other path.

    Returns:
        The keys of `describe`: "kind" is "run", "steps" and the arrays are empty, "metrics" has the last value of every
        metric of metrics.jsonl. "logged_step" is the step of its last line, 0 without one.

    Raises:
        UserError: A file of the run cannot be read.
    """
    run = WorkDir(path, "PATH")
    if not is_run(run) or committed_steps(run.checkpoints):
        return None
    metrics = read_last_values(run.metrics) if run.metrics.is_file() else {}
    return _described(
        place_of(run.root),
        kind=RUN,
        steps=[],
        config=masked_values(read_json(run.config, "the config.json of a run")),
        params=[],
        opt_state=[],
        metrics={name: value for name, value in metrics.items() if "/" in name},
        starts=read_entries(run.provenance),
    ) | {"logged_step": metrics.get("step", 0)}


def _foreign(path: str, step: str) -> dict[str, Any]:
    try:
        source = open_foreign(path, step)
        parts: dict[str, list] = {part: [] for part in PARTS}
        for name, spec in sorted(source.everything().items()):
            named = (part for element in name.split("/") if (part := _FOREIGN_PARTS.get(element)))
            parts[next(named, "params")].append(_array(name, spec))
    except DamageFound as error:  # exit code 4 is that of --verify
        raise UserError(str(error)) from error
    present = {part: arrays for part, arrays in parts.items() if arrays or part == "params"}
    return _described(source.place, kind=source.kind, config=source.config, **present)


def _described(path: str, **known: Any) -> dict[str, Any]:
    keys = (
        "kind", "steps", "step", "time", "config", "params", "opt_state", "ema", "data", "metrics", "provenance", "starts",
    )  # fmt: skip
    return {"path": path, **{key: known.get(key) for key in keys}}


def _our_checkpoint(checkpoint: Path) -> dict[str, Any]:
    manifest = require_manifest(checkpoint)
    config = read_item(checkpoint, "config")

    def item(name: str) -> dict[str, Any] | None:
        # Parameters alone have no position in data, and checkpoints of earlier versions no provenance.
        return read_item(checkpoint, name) if f"{name}/metadata" in manifest.files else None

    return _described(
        place_of(checkpoint),
        kind="checkpoint",
        steps=committed_steps(checkpoint.parent),
        step=manifest.step,
        time=manifest.time,
        config=masked_values(config),  # older versions may have saved secrets
        data=item("data"),
        metrics=dict(manifest.metrics),
        provenance=item("provenance"),
        starts=read_entries(WorkDir(checkpoint.parent.parent).provenance),
        **_parts(manifest.leaves),
    )


def _parts(leaves: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    parts: dict[str, list] = {part: [] for part in PARTS}
    for leaf in leaves:
        part, _, name = leaf["path"].partition("/")
        if part in parts:
            parts[part].append(_array(name, ArraySpec(leaf["dtype"], tuple(leaf["shape"]))))
    return parts


def _array(path: str, spec: ArraySpec) -> dict[str, Any]:
    try:
        num_bytes = spec.num_bytes
    except TypeError as error:
        raise DamageFound(f"the array {path!r} has the unknown dtype {spec.dtype!r}.") from error
    return {"path": path, "shape": list(spec.shape), "dtype": spec.dtype, "bytes": num_bytes}
