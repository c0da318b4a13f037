"""Answer records with the model of a work directory: labels, hidden tokens, translations; one JSON object a line."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jaxdp.cli import options as shared
from jaxdp.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    shared.add_workdir(parser)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", metavar="TEXT", help="one text; masked_lm: with [MASK] where a token is to be guessed")
    given.add_argument("--input", metavar="FILE", help="a text a line, or a JSON object a line (.jsonl); -: standard input")
    parser.add_argument("--num_beams", type=int, metavar="N", help="seq2seq: hypotheses of each text (1: greedy)")
    parser.add_argument(
        "--length_penalty", type=float, default=0.6, metavar="A", help="seq2seq: above 0 favours longer texts"
    )
    shared.add_choice_of_weights(parser)
    shared.add_cpu_devices(parser)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    shared.refuse_rest(options, rest)
    records = [options.text] if options.input is None else list(_records(options.input))
    from jaxdp.experiment.predict import predict
    from jaxdp.inference.beam import BeamSearch

    search = None if options.num_beams is None else BeamSearch(options.num_beams, options.length_penalty)
    answers = predict(
        options.workdir,
        records,
        search=search,
        step=options.step,
        weights=options.weights,
        cpu_devices=options.cpu_devices,
    )
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False))
    return 0


def _records(name: str) -> Iterator[str | dict[str, Any]]:
    """What each line of a file says."""
    for number, line in enumerate(_lines(name), 1):
        if not name.endswith(".jsonl"):
            yield line
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"--input={name}, line {number} is not JSON: {error}.") from error
        if not isinstance(record, str | dict):
            raise UserError(f"--input={name}, line {number} is neither a JSON object nor a text.")
        yield record


def _lines(name: str) -> list[str]:
    try:
        if name == "-":
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
