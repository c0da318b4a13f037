"""Evaluation of a checkpoint on a split of its run, or on other data of the same kind."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.cli import options as shared
from jaxdp.config import load_config
from jaxdp.errors import UserError
from jaxdp.redact import redact
from jaxdp.report.terminal import print_status

DATA = "--config.data."

MAX_CLASSES = 50
"""Maximum number of rows of the table of classes: those with most examples."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp eval`."""
    shared.add_workdir(parser)
    shared.add_choice_of_weights(parser)
    shared.add_sync(parser)
    shared.add_cpu_devices(parser)
    parser.add_argument(
        "--split",
        choices=("train", "eval", "test"),
        default="eval",
        help="split to evaluate; test: data.test_path or data.test_split",
    )
    parser.add_argument(
        "--num_batches",
        type=batch_count,
        metavar="N",
        help="evaluate only the first N batches; default: the whole split",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "Keys of `data` override those of the run, to evaluate other data of the same kind:\n"
        "  --config.data.eval_path=test.csv   (with --config.data.source=csv if the run was trained on another kind)\n"
        "  --config.data.eval_split=test      (hf)"
    )


def batch_count(text: str) -> int:
    """Parses a number of batches, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of batches of 1 or more")
    return int(text)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp eval` and returns the exit code."""
    data = _other_data(options, rest)
    from jaxdp.inference.evaluate import measure_checkpoint, save_report

    evaluation = measure_checkpoint(
        options.workdir,
        step=options.step,
        split=options.split,
        weights=options.weights,
        cpu_devices=options.cpu_devices,
        sync=options.sync,
        num_batches=options.num_batches,
        data=data,
    )
    if options.json:
        shared.show_json(evaluation.result)
    else:
        _print_table(evaluation.result, evaluation.report)
    save_report(evaluation, options.workdir)
    return 0


def _other_data(options: argparse.Namespace, rest: Sequence[str]) -> dict[str, Any]:
    """Returns the keys of `data` that the command line sets, with their values.

    Raises:
        UserError: Another key is set, or a value has the wrong type.
    """
    for argument in rest:
        if argument.startswith(("--config.", "--noconfig.")) and not argument.startswith(DATA):
            raise UserError(
                f"{argument.split('=')[0]} cannot be changed in an evaluation; expected only {DATA}KEY=VALUE."
            )
    shared.refuse_rest(options, [argument for argument in rest if not argument.startswith(DATA)])
    if not rest:
        return {}
    from jaxdp.checkpoint.remote_copy import read_directory

    directory = read_directory(options.workdir)
    directory.require_run()
    config = load_config(str(directory.config), rest)
    keys = [argument.removeprefix(DATA).split("=")[0] for argument in rest]
    return {key: config.data[key] for key in keys}


def _print_table(result: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Prints names and values in two columns, and for a classifier a row for each class."""
    rows = {name.removeprefix("eval/"): value for name, value in result.items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        shared.show(f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    if classes := report.get("classes"):
        shared.show("")
        _print_classes(classes)


def _print_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    shown = sorted(sorted(range(len(classes)), key=lambda number: -classes[number]["support"])[:MAX_CLASSES])
    names = [redact(str(classes[number]["label"])) for number in shown]
    width = max(map(len, ["label", *names]))
    shared.show(f"{'label':<{width}}  precision  recall      f1  support")
    for name, number in zip(names, shown, strict=True):
        precision, recall, f1 = (_share(classes[number][key]) for key in ("precision", "recall", "f1"))
        shared.show(f"{name:<{width}}  {precision:>9}  {recall:>6}  {f1:>6}  {classes[number]['support']:>7}")
    if len(shown) < len(classes):
        print_status(
            f"{len(shown)} of {len(classes)} classes are shown, those with most examples; evaluation.json has all"
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
