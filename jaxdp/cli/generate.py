"""Continue a prompt with the model of a work directory."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

from jaxdp.cli import options as shared
from jaxdp.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add_workdir(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help='"" begins a new document')
    parser.add_argument("--max_new_tokens", type=int, default=256, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: greedy")
    parser.add_argument("--top_k", type=int, default=0, metavar="K", help="0: off")
    parser.add_argument("--top_p", type=float, default=1.0, metavar="P", help="1: off")
    parser.add_argument("--num_samples", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="sample i is drawn from seed + i")
    parser.add_argument("--json", action="store_true", help="print one JSON object a sample")
    shared.add_choice_of_weights(parser)
    shared.add_cpu_devices(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    shared.refuse_rest(options, rest)
    if not 0 <= options.seed <= 2**32 - max(options.num_samples, 1):
        raise UserError(f"--seed={options.seed} must be at least 0, and --seed + --num_samples at most 2**32.")
    from jaxdp.experiment.generate import generate
    from jaxdp.inference.sampling import Sampling

    samples = generate(
        options.workdir,
        [options.prompt],
        max_new_tokens=options.max_new_tokens,
        sampling=Sampling(options.temperature, options.top_k, options.top_p),
        num_samples=options.num_samples,
        seed=options.seed,
        step=options.step,
        weights=options.weights,
        cpu_devices=options.cpu_devices,
    )
    for number, sample in enumerate(samples):
        if options.json:
            print(json.dumps(dataclasses.asdict(sample)))
            continue
        if number:
            print("-" * 60)
        print(sample.prompt + sample.text)
    return 0
