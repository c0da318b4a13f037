"""Data preparation: reads, cleans and tokenizes the data of a configuration into the shared cache."""

import argparse
from collections.abc import Sequence

from jaxdp.cli import options as shared
from jaxdp.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp prepare`."""
    shared.add_config(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="print the planned work and the size of the result; write nothing"
    )
    shared.add_cpu_devices(parser, uses_devices=False)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp prepare` and returns the exit code."""
    config = shared.configuration(options, rest)
    if config.data.source == "hf_stream":
        raise UserError(
            "data.source=hf_stream is a stream and has nothing to prepare; set data.source=hf to prepare it."
        )
    from jaxdp.data.prepare import prepare
    from jaxdp.tasks.make import dataset_spec

    for name, value in prepare(dataset_spec(config), dry_run=options.dry_run):
        shared.show(f"{name:<11} {value}")
    return 0
