"""Import of a Hugging Face folder (BERT, GPT-2 and other families, as safetensors) into a work directory."""

import argparse
from collections.abc import Sequence

from jaxdp.cli import options as shared


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp import`."""
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="HF_DIR",
        help="folder with config.json and safetensors, or hf:NAME for a model on the Hugging Face Hub",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="work directory to create")
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help="data.length, the tokens of a sequence, up to the context of the model; default: the context, or less of "
        "a long one with rotary positions",
    )
    shared.add_cpu_devices(parser, uses_devices=False)
    parser.epilog = (
        "The work directory serves eval, generate, predict, inspect and export, and as init_from of a training:\n"
        "  jaxdp eval --workdir=DIR --config.data.eval_path=FILE\n"
        "  jaxdp train --config=classify_csv --config.init_from=DIR --workdir=NEW_DIR"
    )


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp import` and returns the exit code."""
    shared.refuse_rest(options, rest)
    import jax

    # The probe must not take memory of an accelerator that trains.
    jax.config.update("jax_platforms", "cpu")
    from jaxdp.interop.importing import import_model

    shared.show(import_model(options.source, options.workdir, options.length))
    return 0
