"""Answer records with the model of a work directory: labels, hidden tokens, translations; one JSON object a line."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jaxdp.cli import options as shared
from jaxdp.cli.strategy import add_strategy, chosen_strategy
from jaxdp.errors import UserError
from jaxdp.terminal import say

STDIN = "-"


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add_workdir(parser)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--text", metavar="TEXT", help="one text; masked_lm: with [MASK] where a token is to be guessed")
    given.add_argument(
        "--input",
        default=STDIN,
        metavar="FILE",
        help="a text a line, or a JSON object a line (.jsonl); default: standard input, of either kind",
    )
    parser.add_argument("--num_candidates", type=int, metavar="K", help="masked_lm: tokens for each [MASK] (10)")
    writing = parser.add_argument_group("seq2seq: how texts are written (default: greedily)")
    add_strategy(writing)
    shared.add_choice_of_weights(parser)
    shared.add_cpu_devices(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    shared.refuse_rest(options, rest)
    records = list(_records(options.input)) if options.text is None else [options.text]
    from jaxdp.experiment.predict import predict

    strategy, num_samples = chosen_strategy(options, draws=False)
    answers = predict(
        options.workdir,
        records,
        strategy=strategy,
        num_samples=num_samples,
        seed=options.seed,
        num_candidates=options.num_candidates,
        step=options.step,
        weights=options.weights,
        cpu_devices=options.cpu_devices,
    )
    for answer in answers:
        print(shared.as_json(answer))
    return 0


def _records(name: str) -> Iterator[str | dict[str, Any]]:
    """What each line says: a text, or in a file of JSON an object; standard input is of the kind of its first line."""
    lines = _lines(name)
    if not (name.endswith(".jsonl") or (name == STDIN and lines and _is_object(lines[0]))):
        yield from lines
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"--input={name}, line {number} is not JSON: {error}.") from error
        if not isinstance(record, str | dict):
            raise UserError(f"--input={name}, line {number} is neither a JSON object nor a text.")
        yield record


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _lines(name: str) -> list[str]:
    try:
        if name == STDIN:
            if sys.stdin.isatty():
                say("a text a line, Ctrl-D to end")
            content = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                content = file.read()
        text = content.decode("utf-8")
    except OSError as error:
        raise UserError(f"--input={name} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--input={name} is not UTF-8 at byte {error.start}.") from error
    # Not splitlines: a text may hold other separators, such as a form feed.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
