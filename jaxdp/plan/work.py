"""Work of a traced program: FLOPs and memory traffic of its matrix products, with the trip counts of its loops."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Work:
    """Work of one device.

    Attributes:
        flops: Floating-point operations of matrix products and fused attention, recomputation by remat included.
        bytes: Bytes that they read and write if everything between them is fused.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: float) -> "Work":
        """Returns the work of `count` repetitions."""
        return Work(self.flops * count, self.bytes * count)


def work_of(jaxpr: Any) -> Work:
    """Counts the work of a jaxpr; a `while` whose number of rounds is not part of the program counts one."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum((_work_of_equation(equation) for equation in jaxpr.eqns), Work())


def _work_of_equation(equation: Any) -> Work:
    name = equation.primitive.name
    if name in _COSTS:
        return Work(_COSTS[name](equation), _traffic(equation))
    if name == "cond":
        return max((work_of(branch) for branch in equation.params["branches"]), key=lambda work: work.flops)
    inner = sum((work_of(jaxpr) for jaxpr in _inner(equation)), Work())
    if name == "scan":
        return inner.times(equation.params["length"])
    if name == "pallas_call":
        grid = equation.params["grid_mapping"].grid
        return Work(inner.flops * math.prod(size for size in grid if isinstance(size, int)), _traffic(equation))
    return inner


def _inner(equation: Any) -> Iterator[Any]:
    """Yields the jaxprs of an equation, such as the body of a loop."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(each, "eqns") or hasattr(getattr(each, "jaxpr", None), "eqns"):
                yield each


def _traffic(equation: Any) -> float:
    variables = [variable.aval for variable in (*equation.invars, *equation.outvars)]
    return float(
        sum(
            math.prod(aval.shape) * aval.dtype.itemsize
            for aval in variables
            if hasattr(aval, "dtype") and hasattr(aval.dtype, "itemsize")
        )
    )


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, [result] = equation.invars[0].aval, equation.outvars
    return 2.0 * math.prod(result.aval.shape) * math.prod(left.shape[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    kernel, [result] = equation.invars[1].aval, equation.outvars
    outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(result.aval.shape) * math.prod(kernel.shape) / outputs


def _attention(products: int) -> Callable[[Any], float]:
    """Returns the cost of cuDNN attention with `products` matrix products over all pairs of queries and keys.

    Queries are `[batch, length, heads, head_dim]`; the half that a causal mask could save is counted.
    """

    def cost(equation: Any) -> float:
        query, key = (variable.aval for variable in equation.invars[:2])
        batch, length, heads, head_dim = query.shape
        return 2.0 * products * batch * heads * length * key.shape[1] * head_dim

    return cost


_COSTS: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd": _attention(2),
    "dot_product_attention_fwd_wrapper": _attention(2),
    "dot_product_attention_bwd": _attention(5),
    "dot_product_attention_bwd_wrapper": _attention(5),
}
"""Primitive -> FLOPs of an equation of it."""
