"""Text generation: continues a prompt with the model of a run."""

import argparse
import dataclasses
from collections.abc import Sequence

from jaxdp.cli import options as shared
from jaxdp.cli.strategy import add_strategy, chosen_strategy


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp generate`."""
    shared.add_workdir(parser)
    parser.add_argument(
        "--prompt",
        type=shared.utf8_text,
        required=True,
        metavar="TEXT",
        help='text to continue; "" begins a new document',
    )
    parser.add_argument(
        "--max_new_tokens",
        type=int,
        metavar="N",
        help="maximum number of new tokens, default 256; with --num_beams limited by the context",
    )
    add_strategy(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a sample")
    shared.add_choice_of_weights(parser)
    shared.add_sync(parser)
    shared.add_cpu_devices(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp generate` and returns the exit code."""
    shared.refuse_rest(options, rest)
    from jaxdp.inference.generate import generate

    strategy, num_samples = chosen_strategy(options, samples_by_default=True)
    assert strategy is not None, "samples by default"
    samples = generate(
        options.workdir,
        [options.prompt],
        max_new_tokens=options.max_new_tokens,
        strategy=strategy,
        num_samples=num_samples,
        seed=options.seed,
        step=options.step,
        weights=options.weights,
        cpu_devices=options.cpu_devices,
        sync=options.sync,
    )
    for number, sample in enumerate(samples):
        if options.json:
            print(
                shared.as_json({name: value for name, value in dataclasses.asdict(sample).items() if value is not None})
            )
            continue
        if number:
            print("-" * 60)
        print(sample.prompt + sample.text)
    return 0
