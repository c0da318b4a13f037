"""Contents of a run, a checkpoint or weights of another format: step, configuration and arrays, without an accelerator."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdp.cli import options as shared
from jaxdp.errors import DamageFound, UserError


class _Diff(argparse.Action):
    """Option `--diff`, which takes its path before or after PATH: `--diff A B` is `A --diff=B`."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.diff = values
        namespace.is_diff_first = namespace.path is None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp inspect`."""
    parser.add_argument(
        "path",
        metavar="PATH",
        help="work directory, folder of runs, checkpoint, Orbax directory, .safetensors, Hugging Face folder, hf:NAME or URL",
    )
    parser.add_argument(
        "--step",
        metavar="N|latest|best",
        help="checkpoint of a work directory; default: latest, and all of them with --verify",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--full", action="store_true", help="a line for every array, the optimizer's too")
    parser.add_argument(
        "--stats",
        action="store_true",
        help="mean, deviation, extremes and norm of every parameter, 16 MB at once; a compressed chunk of an Orbax array is decoded whole",
    )
    parser.add_argument(
        "--diff", action=_Diff, metavar="PATH2", help="compare the parameters with those of another path"
    )
    parser.add_argument("--verify", action="store_true", help="verify every file; exit code 4 if one is damaged")
    parser.add_argument(
        "--fingerprint", action="store_true", help="SHA-256 of the values, equal for a run, its import and its export"
    )
    parser.set_defaults(is_diff_first=False)
    shared.add_cpu_devices(parser, uses_devices=False)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp inspect` and returns the exit code."""
    shared.refuse_rest(options, rest)
    chosen = [name for name in ("stats", "diff", "verify", "fingerprint") if getattr(options, name)]
    if len(chosen) > 1:
        raise UserError(f"--{chosen[0]} and --{chosen[1]} are two results; give one of them.")
    options.path = _copied(options.path)
    options.diff = options.diff and _copied(options.diff)
    if chosen:
        return {"stats": _stats, "diff": _diff, "verify": _verify, "fingerprint": _fingerprint}[chosen[0]](options)
    from jaxdp.inspection.runs_folder import as_table, list_runs

    runs = None if _is_elsewhere(options.path) or options.step else list_runs(options.path)
    if runs is None:
        return _describe(options)
    if options.json:
        shared.show_json({"path": options.path, "runs": runs})
    else:
        shared.show("\n".join(as_table(runs)))
    return 0


def _describe(options: argparse.Namespace) -> int:
    from jaxdp.config import default_values
    from jaxdp.inspection.describe import describe, describe_unsaved
    from jaxdp.inspection.text import as_lines
    from jaxdp.report.goodput import goodput

    checkpoints = None if options.step else _checkpoints(options.path, verify=False)
    is_elsewhere = _is_elsewhere(options.path)
    unsaved = None if options.step or is_elsewhere else describe_unsaved(options.path)
    description = unsaved or describe(options.path, options.step or "latest")
    spent = None if is_elsewhere else goodput(options.path)
    if options.json:
        shared.show_json(
            description
            | (checkpoints or {"metric": None, "checkpoints": None})
            | {"goodput": spent and spent.as_json()}
        )
        return 0
    if checkpoints and checkpoints["checkpoints"]:
        shared.show(_table(checkpoints) + "\n")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    goodput_line = spent.describe() if spent else ""
    shared.show(
        "\n".join(as_lines(description, default_values(), goodput=goodput_line, full=options.full, width=width))
    )
    return 0


def _verify(options: argparse.Namespace) -> int:
    from jaxdp.inspection.verifying import verify

    checkpoints = None if options.step else _checkpoints(options.path, verify=True)
    if checkpoints is None or not checkpoints["checkpoints"]:
        shared.show(verify(options.path, options.step or "latest"))
        return 0
    if options.json:
        shared.show_json({"path": _place(options.path), **checkpoints})
    else:
        shared.show(_table(checkpoints))
    damaged = [entry for entry in checkpoints["checkpoints"] if entry["verdict"] == "damaged"]
    problems = [sentence for entry in damaged for sentence in entry["damage"]] + checkpoints["damage"]
    if problems:
        raise DamageFound("; ".join(problems) + ".")
    return 0


def _stats(options: argparse.Namespace) -> int:
    from jaxdp.inspection.fingerprint import open_parameters
    from jaxdp.inspection.statistics import as_table, compute_statistics

    source = open_parameters(options.path, options.step or "latest")
    rows = [{"path": name} | statistics.as_json() for name, statistics in compute_statistics(source)]
    if options.json:
        shared.show_json({"path": _place(options.path), "source": source.describe(), "params": rows})
    else:
        shared.show("\n".join([source.describe(), *as_table(rows)]))
    return 0


def _diff(options: argparse.Namespace) -> int:
    from jaxdp.inspection.differences import as_text, compare

    paths = (options.diff, options.path) if options.is_diff_first else (options.path, options.diff)
    found = compare(*paths, options.step or "latest")
    if options.json:
        shared.show_json(found)
    else:
        shared.show("\n".join(as_text(found, full=options.full)))
    return 0


def _fingerprint(options: argparse.Namespace) -> int:
    from jaxdp.inspection.describe import describe
    from jaxdp.inspection.fingerprint import fingerprint

    found = fingerprint(options.path, options.step or "latest")
    if options.json:
        shared.show_json(describe(options.path, options.step or "latest") | dict(found))
    else:
        shared.show(f"{found['fingerprint']}  {found['source']} ({found['names']})")
    return 0


def _copied(path: str) -> str:
    """Returns the path of the copy of a run in object storage; other paths unchanged."""
    if "://" not in path:
        return path
    from jaxdp.checkpoint.remote_copy import is_remote_run, local_copy

    return os.fspath(local_copy(path, "PATH")) if is_remote_run(path) else path


def _place(path: str) -> str:
    """Returns the URL of the copy of a run in object storage; other paths unchanged."""
    if _is_elsewhere(path):
        return path
    from jaxdp.checkpoint.remote_copy import place_of

    return place_of(Path(path))


def _is_elsewhere(path: str) -> bool:
    return path.startswith("hf:") or "://" in path


def _checkpoints(path: str, *, verify: bool) -> dict[str, Any] | None:
    """Returns all checkpoints of a work directory, the metric that ranks them and other damage; None for other paths."""
    from jaxdp.checkpoint.listing import list_checkpoints
    from jaxdp.checkpoint.metric_records import recorded_metric
    from jaxdp.checkpoint.run_files import run_problems
    from jaxdp.config import read_run_config
    from jaxdp.training.retention_rules import retention_of
    from jaxdp.workdir import WorkDir

    if _is_elsewhere(path):
        return None
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
