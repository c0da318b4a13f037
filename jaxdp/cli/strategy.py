"""Options of commands that write texts: drawn token by token, or searched for with beams."""

import argparse
from typing import TYPE_CHECKING

from jaxdp.errors import UserError

if TYPE_CHECKING:
    from jaxdp.decoding.strategy import DecodingStrategy

TEMPERATURE, LENGTH_PENALTY = 0.8, 0.6

DRAWING = ("temperature", "top_k", "top_p")


def add_strategy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=float, metavar="T", help=f"of what is drawn, default {TEMPERATURE}; 0: greedy")
    parser.add_argument("--top_k", type=int, metavar="K", help="draw among the K likeliest tokens; 0: off")
    parser.add_argument("--top_p", type=float, metavar="P", help="draw among the likeliest that together reach P; 1: off")
    parser.add_argument("--num_beams", type=int, metavar="N", help="search with so many hypotheses instead (1: greedy)")
    parser.add_argument(
        "--length_penalty", type=float, metavar="A", help=f"with --num_beams: above 0 favours longer texts, default {LENGTH_PENALTY}"
    )
    parser.add_argument("--num_samples", type=int, default=1, metavar="N", help="texts to draw; with --num_beams: the best N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="text i is drawn from seed + i")


def chosen_strategy(options: argparse.Namespace, draws: bool) -> tuple["DecodingStrategy | None", int]:
    """How texts are written, and how many are drawn for each request.

    Args:
        options: what `add_strategy` added.
        draws: whether texts are drawn where nothing asks for it.

    Returns:
        The strategy, None where nothing says one; the samples of each request, which is
        1 for a search: its strategy says how many texts it returns.

    Raises:
        UserError: drawing and searching at once, or a value out of range.
    """
    from jaxdp.decoding.beam import BeamSearch
    from jaxdp.decoding.sampling import Sampling

    drawing = {name: getattr(options, name) for name in DRAWING if getattr(options, name) is not None}
    if options.num_beams is not None:
        if drawing:
            given = " and ".join(f"--{name}" for name in drawing)
            raise UserError(f"--num_beams searches for the best text, {given} draws one: give one or the other.")
        penalty = LENGTH_PENALTY if options.length_penalty is None else options.length_penalty
        return BeamSearch(options.num_beams, penalty, options.num_samples), 1
    if options.length_penalty is not None:
        raise UserError("--length_penalty compares hypotheses: give --num_beams too.")
    if not (draws or drawing or options.num_samples > 1):
        return None, options.num_samples
    return Sampling(**{"temperature": TEMPERATURE} | drawing), options.num_samples
