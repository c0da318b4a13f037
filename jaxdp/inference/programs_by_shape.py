"""Compiled programs by shape of their batch, and a warning on recompilation for many shapes."""

import functools
from collections.abc import Callable, Hashable, Sequence

from jaxdp.parallel.spmd import Program
from jaxdp.report.terminal import print_status

MAX_SHAPES = 8
"""Number of shapes for which a program is compiled without a warning."""

MAX_PROGRAMS = 64
"""Limit of programs that are kept; the least recently used one is freed and compiled again at its next use."""


class ProgramsByShape:
    """Programs of one function, compiled at the first call with each shape.

    Every shape costs a compilation, often seconds for a batch of milliseconds, which callers that pass texts of all lengths
    do not see. The warning comes once.
    """

    def __init__(self, what: str, compile_program: Callable[..., Program], describe: Callable[..., str], advice: str):
        """Creates the object; compiles nothing.

        Args:
            what: Name of the program in the warning, such as "generation".
            compile_program: Function from a shape, any number of hashable arguments, to the program.
            describe: Function from a shape to its words in the warning, such as "1 x 5 tokens".
            advice: Sentence without a full stop that says how to have fewer shapes.
        """
        self._what, self._compile_program, self._describe, self._advice = what, compile_program, describe, advice
        self._shapes: list[Sequence[Hashable]] = []
        self._kept = functools.lru_cache(MAX_PROGRAMS)(self._compiled)

    def __call__(self, *shape: Hashable) -> Program:
        """Returns the program of a shape."""
        return self._kept(*shape)

    def _compiled(self, *shape: Hashable) -> Program:
        self._shapes.append(shape)
        if len(self._shapes) == MAX_SHAPES + 1:
            print_status(
                f"{self._what} is compiled for the {len(self._shapes)}th time, each time for another shape ("
                f"{'; '.join(self._describe(*each) for each in self._shapes)}). Every compilation takes seconds: {self._advice}."
            )
        return self._compile_program(*shape)
