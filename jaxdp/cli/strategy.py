"""Decoding options: sampling and beam search."""

import argparse
from typing import TYPE_CHECKING, Any

from jaxdp.errors import UserError

if TYPE_CHECKING:
    from jaxdp.decoding.strategy import DecodingStrategy

TEMPERATURE, LENGTH_PENALTY = 0.8, 0.6

SAMPLING_OPTIONS = ("temperature", "top_k", "top_p")


def add_strategy(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Adds the decoding options."""
    parser.add_argument(
        "--temperature", type=float, metavar="T", help=f"sampling temperature, default {TEMPERATURE}; 0: greedy"
    )
    parser.add_argument("--top_k", type=int, metavar="K", help="sample from the K most probable tokens; 0: off")
    parser.add_argument(
        "--top_p", type=float, metavar="P", help="sample from the most probable tokens with total probability P; 1: off"
    )
    parser.add_argument("--num_beams", type=int, metavar="N", help="use beam search with N beams (1: greedy)")
    parser.add_argument(
        "--length_penalty",
        type=float,
        metavar="A",
        help=f"with --num_beams: values above 0 favour longer texts, default {LENGTH_PENALTY}",
    )
    parser.add_argument(
        "--num_samples",
        type=int,
        default=1,
        metavar="N",
        help="number of texts to sample; with --num_beams: the best N",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="sampling seed; text i uses S + i")


def chosen_strategy(options: argparse.Namespace, samples_by_default: bool) -> tuple["DecodingStrategy | None", int]:
    """Returns the decoding strategy and the number of samples of each prompt or record.

    Args:
        options: Parsed options of `add_strategy`.
        samples_by_default: Whether to sample if no option selects a strategy.

    Returns:
        (strategy, number of samples): None if no option selects a strategy; 1 for a
        beam search, whose strategy has the number of texts that it returns.

    Raises:
        UserError: Options of sampling and of beam search at once, or a value out of range.
    """
    from jaxdp.decoding.beam import BeamSearch
    from jaxdp.decoding.sampling import Sampling

    sampling: dict[str, Any] = {
        name: getattr(options, name) for name in SAMPLING_OPTIONS if getattr(options, name) is not None
    }
    if options.num_beams is not None:
        if sampling:
            given = " and ".join(f"--{name}" for name in sampling)
            raise UserError(f"--num_beams searches for the best text, {given} samples: give one or the other.")
        penalty = LENGTH_PENALTY if options.length_penalty is None else options.length_penalty
        return BeamSearch(options.num_beams, penalty, options.num_samples), 1
    if options.length_penalty is not None:
        raise UserError("--length_penalty applies to beam search: give --num_beams too.")
    if not (samples_by_default or sampling or options.num_samples > 1):
        return None, options.num_samples
    return Sampling(**{"temperature": TEMPERATURE, **sampling}), options.num_samples
