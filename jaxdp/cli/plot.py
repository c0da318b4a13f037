"""Draw loss, learning rate and throughput of one or several runs to a PNG."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxdp.cli import options as shared
from jaxdp.workdir import WorkDir


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", nargs="+", metavar="DIR", help="work directories")
    parser.add_argument("--out", metavar="FILE", help="default: plots/training.png of the first DIR")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    shared.refuse_rest(options, rest)
    from jaxdp.plotting import plot_runs

    runs = [WorkDir(directory) for directory in options.directories]
    out = Path(options.out) if options.out else runs[0].plots / "training.png"
    print(plot_runs([run.root for run in runs], out))
    return 0
