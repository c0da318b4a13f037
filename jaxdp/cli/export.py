"""Export of a checkpoint as a Hugging Face folder: config.json, safetensors, tokenizer and generation settings."""

import argparse
from collections.abc import Sequence

from jaxdp.arguments import EXPORT_DTYPES
from jaxdp.cli import options as shared
from jaxdp.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp export`."""
    shared.add_workdir(parser)
    parser.add_argument(
        "--to",
        required=True,
        metavar="HF_DIR|FILE.safetensors",
        help="folder to create, or a file for the parameters alone, under the names of jaxdp",
    )
    shared.add_choice_of_weights(parser)
    parser.add_argument(
        "--dtype",
        choices=EXPORT_DTYPES,
        help="dtype of the tensors; default: of an import that of each of its tensors, of a trained run float32",
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write the adapters of model.lora_rank alone, as PEFT reads them; without this they are merged into the model",
    )
    parser.add_argument(
        "--average",
        metavar="last:K|best:K",
        help="mean of the K newest or best checkpoints (stochastic weight averaging) in place of one",
    )
    shared.add_cpu_devices(parser, uses_devices=False)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp export` and returns the exit code."""
    shared.refuse_rest(options, rest)
    import jax

    # The probe must not take memory of an accelerator that trains.
    jax.config.update("jax_platforms", "cpu")
    from jaxdp.interop.exporting import export_model
    from jaxdp.interop.extraction import extract_parameters

    choice = {"step": options.step, "weights": options.weights, "dtype": options.dtype, "average": options.average}
    if options.to.endswith(".safetensors"):
        if options.adapter:
            raise UserError("--adapter writes a folder; give --to a name without .safetensors.")
        shared.show(extract_parameters(options.workdir, options.to, **choice))
        return 0
    shared.show(export_model(options.workdir, options.to, adapter=options.adapter, **choice))
    return 0
