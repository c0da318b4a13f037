"""Predictions for records: labels, masked tokens or generated texts, one JSON object a line."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TextIO

from jaxdp.atomic_files import atomic_replacement
from jaxdp.cli import options as shared
from jaxdp.cli.strategy import add_strategy, chosen_strategy
from jaxdp.data.reading.raw_records import FORMATS, STDIN
from jaxdp.errors import UserError
from jaxdp.paths import local_path
from jaxdp.report.terminal import print_status


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp predict`."""
    shared.add_workdir(parser)
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--text",
        type=shared.utf8_text,
        metavar="TEXT",
        help="one text; masked_lm: with [MASK] for each token to predict",
    )
    given.add_argument(
        "--input",
        default=STDIN,
        metavar="FILE",
        help="records: .csv, .tsv, .json (an array), .jsonl, .ndjson, .parquet, or text with one record a line; "
        "also compressed (.gz, .xz, .zst); default: standard input",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the input; default: from the file name, else from the content (a header that names the "
        "column of the run's data makes it a table)",
    )
    parser.add_argument("--output", metavar="FILE", help="output file, written when complete; default: standard output")
    parser.add_argument(
        "--num_candidates", type=int, metavar="K", help="masked_lm: number of predicted tokens for each [MASK] (10)"
    )
    add_strategy(parser.add_argument_group("seq2seq: decoding (default: greedy)"))
    shared.add_choice_of_weights(parser)
    shared.add_sync(parser)
    shared.add_cpu_devices(parser)
    parser.epilog = (
        'A prediction has the other fields of its record, e.g. an id, renamed to "input_NAME" if their name is taken.\n'
        'An empty or broken record gets {"error": TEXT} in its place; their number is printed at the end.'
    )


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp predict` and returns the exit code."""
    shared.refuse_rest(options, rest)
    if options.text is not None and options.format is not None:
        raise UserError("--format applies to --input; leave it out with --text.")
    from jaxdp.inference.prediction_requests import ERROR, raw_records
    from jaxdp.inference.predictor import Predictor
    from jaxdp.inference.restored_model import restored_model

    strategy, num_samples = chosen_strategy(options, samples_by_default=False)
    predictor = Predictor(
        restored_model(options.workdir, options.step, options.weights, options.cpu_devices, options.sync),
        strategy=strategy,
        num_samples=num_samples,
        seed=options.seed,
        num_candidates=options.num_candidates,
    )
    if options.text is not None:
        records = raw_records([options.text])
    else:
        records = predictor.read(options.input, _standard_input(options.input), options.format)
    with _output(options.output, options.input) as write:
        for answer in predictor(records):
            if options.text is not None and ERROR in answer:
                raise UserError(answer[ERROR].replace("record 1", "--text", 1))
            write(shared.as_json(answer) + "\n")
    predictor.report()
    return 0


def _standard_input(name: str) -> BinaryIO | None:
    if name != STDIN:
        return None
    if sys.stdin is None or sys.stdin.closed:
        raise UserError("standard input is closed: give --text or --input=FILE.")
    if sys.stdin.isatty():
        print_status("one text a line, Ctrl-D to end")
    return sys.stdin.buffer


@contextlib.contextmanager
def _output(name: str | None, input_name: str) -> Iterator[Callable[[str], object]]:
    """Yields a function that writes text to standard output, or to a file that appears when complete.

    Raises:
        UserError: The file cannot be written.
    """
    if name is None:
        yield sys.stdout.write
        return
    path, source = local_path(name, "--output"), os.path.expanduser(input_name)
    if path.is_dir() or (path.exists() and os.path.exists(source) and os.path.samefile(path, source)):
        raise UserError(
            f"--output={name} is {'a directory' if path.is_dir() else 'the --input'}: give the name of another file."
        )
    is_file = path.is_file() or not path.exists()  # pipes and terminals are written directly
    with contextlib.ExitStack() as stack:
        with _unwritable_output(name):
            target = stack.enter_context(atomic_replacement(path)) if is_file else path
            file = open(target, "w", encoding="utf-8")  # noqa: SIM115
        stack.callback(_close_quietly, file)

        def write(text: str) -> None:
            with _unwritable_output(name):
                file.write(text)

        yield write
        with _unwritable_output(name):
            file.close()
            stack.close()


def _close_quietly(file: TextIO) -> None:
    """Closes a file after an error that has already been reported."""
    with contextlib.suppress(OSError):
        file.close()


@contextlib.contextmanager
def _unwritable_output(name: str) -> Iterator[None]:
    """Converts errors of the output file into UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output={name} cannot be written ({error.strerror}): choose another file, or free disk space."
        ) from error
