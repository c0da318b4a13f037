"""Export of a checkpoint as a Hugging Face folder: config.json, safetensors, tokenizer and generation settings."""

import argparse
from collections.abc import Sequence

from jaxdp.cli import options as shared


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp export`."""
    shared.add_workdir(parser)
    parser.add_argument("--to", required=True, metavar="HF_DIR", help="folder to create")
    shared.add_choice_of_weights(parser)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the tensors; default: of an import that of each of its tensors, of a trained run float32",
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write the adapters of model.lora_rank alone, as PEFT reads them; without this they are merged into the model",
    )
    shared.add_cpu_devices(parser, uses_devices=False)


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp export` and returns the exit code."""
    shared.refuse_rest(options, rest)
    import jax

    # The probe must not take memory of an accelerator that trains.
    jax.config.update("jax_platforms", "cpu")
    from jaxdp.interop.exporting import export_model

    shared.show(
        export_model(
            options.workdir,
            options.to,
            step=options.step,
            weights=options.weights,
            dtype=options.dtype,
            adapter=options.adapter,
        )
    )
    return 0
