"""What this process sees, and whether it can train: runs a small all-reduce on every device."""

import argparse
from collections.abc import Sequence

from jaxdp.cli import options as shared


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add_cpu_devices(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    shared.refuse_rest(options, rest)
    from jaxdp.bench.devices import describe_devices

    for name, value in describe_devices(options.cpu_devices):
        shared.show(f"{name:<12} {value}")
    return 0
