"""Evaluate a checkpoint of a run on one of its splits, from the work directory alone."""

import argparse
from collections.abc import Sequence

from jaxdp.cli import options as shared


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add_workdir(parser)
    shared.add_choice_of_weights(parser)
    shared.add_cpu_devices(parser)
    parser.add_argument("--split", choices=("train", "eval"), default="eval", help="which rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    shared.refuse_rest(options, rest)
    from jaxdp.experiment.evaluate import evaluate_checkpoint

    result = evaluate_checkpoint(
        options.workdir,
        step=options.step,
        split=options.split,
        weights=options.weights,
        cpu_devices=options.cpu_devices,
    )
    if options.json:
        print(shared.as_json(result))
    else:
        width = max(map(len, result))
        for name, value in result.items():
            print(f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}")
    return 0
