"""Contents of a run or a checkpoint: step, configuration and arrays, without its model or an accelerator."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from jaxdp.cli import options as shared
from jaxdp.errors import DamageFound


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp inspect`."""
    parser.add_argument("path", metavar="PATH", help="work directory, checkpoint, Orbax directory or .safetensors")
    parser.add_argument(
        "--step",
        metavar="N|latest|best",
        help="checkpoint of a work directory; default: latest, and all of them with --verify",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verify", action="store_true", help="verify every file; exit code 4 if one is damaged")
    shared.add_cpu_devices(parser, uses_devices=False)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp inspect` and returns the exit code."""
    shared.refuse_rest(options, rest)
    from jaxdp import inspection
    from jaxdp.config import default_values

    checkpoints = None if options.step else _checkpoints(options.path, verify=options.verify)
    if options.verify:
        if checkpoints is None:
            shared.show(inspection.verify(options.path, options.step or "latest"))
            return 0
        if options.json:
            shared.show_json({"path": options.path, **checkpoints})
        else:
            shared.show(_table(checkpoints))
        damaged = [entry for entry in checkpoints["checkpoints"] if entry["verdict"] == "damaged"]
        problems = [sentence for entry in damaged for sentence in entry["damage"]] + checkpoints["damage"]
        if problems:
            raise DamageFound("; ".join(problems) + ".")
        return 0
    description = inspection.describe(options.path, options.step or "latest")
    if options.json:
        shared.show_json(description | (checkpoints or {"metric": None, "checkpoints": None}))
    else:
        if checkpoints:
            shared.show(_table(checkpoints) + "\n")
        shared.show(inspection.as_text(description, default_values()))
    return 0


def _checkpoints(path: str, *, verify: bool) -> dict[str, Any] | None:
    """Returns all checkpoints of a work directory, the metric that ranks them and other damage; None for other paths."""
    from jaxdp.checkpoint.listing import list_checkpoints
    from jaxdp.checkpoint.metric_records import recorded_metric
    from jaxdp.checkpoint.run_files import run_problems
    from jaxdp.config import read_run_config
    from jaxdp.training.retention_rules import retention_of
    from jaxdp.workdir import WorkDir

    directory = WorkDir(path, "PATH")
    if not os.path.lexists(directory.config) or not directory.checkpoints.is_dir():
        return None
    config = read_run_config(directory.config)
    metric = recorded_metric(directory.checkpoints, config.eval.metric)
    retention = retention_of(config, bool(metric.higher_is_better))
    entries = list_checkpoints(directory.checkpoints, retention, verify=verify)
    intact = [entry["name"] for entry in entries if entry["verdict"] == "intact"]
    damage = run_problems(directory.checkpoints / intact[-1]) if intact else []
    return {"metric": retention.metric, "checkpoints": entries, "damage": damage}


def _table(checkpoints: dict[str, Any]) -> str:
    from jaxdp.checkpoint.listing import as_table

    return "\n".join(as_table(checkpoints["checkpoints"], checkpoints["metric"]))
