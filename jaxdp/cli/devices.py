"""Devices of this process, tested with a small all-reduce over all of them."""

import argparse
from collections.abc import Sequence

from jaxdp.cli import options as shared


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp devices`."""
    shared.add_cpu_devices(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp devices` and returns the exit code."""
    shared.refuse_rest(options, rest)
    from jaxdp.bench.devices import describe_devices

    for name, value in describe_devices(options.cpu_devices):
        shared.show(f"{name:<12} {value}")
    return 0
