"""Read, clean and tokenize the data of a configuration once, into a cache that every run uses."""

import argparse
from collections.abc import Sequence

from jaxdp.cli import options as shared
from jaxdp.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add_config(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="say what would be done and how large the result is; write nothing"
    )
    shared.add_cpu_devices(parser, uses_devices=False)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    config = shared.configuration(options, rest)
    if config.data.source == "hf_stream":
        raise UserError("data.source=hf_stream is read as it comes and has nothing to prepare; use hf to prepare it.")
    from jaxdp.data.prepare import prepare
    from jaxdp.tasks.make import dataset_spec

    for name, value in prepare(dataset_spec(config), dry_run=options.dry_run):
        shared.show(f"{name:<11} {value}")
    return 0
