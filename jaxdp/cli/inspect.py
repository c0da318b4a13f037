"""What a run or a checkpoint holds: step, configuration, arrays; needs no model and no accelerator."""

import argparse
import json
from collections.abc import Sequence

from jaxdp.cli import options as shared


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="work directory, checkpoint, Orbax directory or .safetensors")
    parser.add_argument("--step", default="latest", metavar="N|latest|best", help="which checkpoint")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verify", action="store_true", help="check every file; exit code 4 on damage")


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    shared.refuse_rest(options, rest)
    from jaxdp import defaults, inspection
    from jaxdp.config import to_json

    if options.verify:
        print(inspection.verify(options.path, options.step))
        return 0
    description = inspection.describe(options.path, options.step)
    if options.json:
        print(json.dumps(description))
    else:
        print(inspection.as_text(description, to_json(defaults.get_config())))
    return 0
