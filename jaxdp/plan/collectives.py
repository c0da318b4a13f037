"""Collectives of a compiled program: kind, count, bytes, and whether computation may run meanwhile; from its text."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_INSTRUCTION = re.compile(rf"= (?P<type>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|f8\w*|c64|c128)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

_MAX_CONTEXT_BYTES = 4
"""Bytes of the scalars that the start of a collective-permute returns besides its arrays."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind in one step of one device.

    Attributes:
        kind: Name of the operation in HLO, e.g. "all-reduce".
        count: Number of executions in one step.
        bytes: Bytes of their results, all executions together.
        is_async: Whether the compiler starts them apart from their ends.
        overlaps: Whether matrix products or loops run between start and end, in the order that the compiler chose.
    """

    kind: str
    count: int
    bytes: int
    is_async: bool
    overlaps: bool


def collectives_of(text: str) -> list[Collective]:
    """Returns the collectives of a compiled program, those of one kind together, the largest first.

    Args:
        text: The program as `as_text()` returns it.
    """
    computations = _computations(text)
    entry = next((name for name, body in computations.items() if body.is_entry), None)
    if entry is None:
        return []
    totals: dict[tuple[str, bool, bool], list[int]] = {}
    for kind, is_async, overlaps, size, times in _walk(computations, entry, 1, None):
        total = totals.setdefault((kind, is_async, overlaps), [0, 0])
        total[0] += times
        total[1] += times * size
    found = [
        Collective(kind, count, size, is_async, overlaps)
        for (kind, is_async, overlaps), (count, size) in totals.items()
    ]
    return sorted(found, key=lambda each: -each.bytes)


@dataclasses.dataclass(frozen=True)
class _Computation:
    lines: list[str]
    is_entry: bool


def _computations(text: str) -> Mapping[str, _Computation]:
    """Returns the instructions of every computation by its name."""
    found: dict[str, _Computation] = {}
    lines: list[str] = []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if head:
            lines = []
            found[head[2]] = _Computation(lines, bool(head[1]))
        elif line.startswith(" "):
            lines.append(line)
    return found


def _walk(
    computations: Mapping[str, _Computation], name: str, times: int, overlaps: bool | None
) -> Iterator[tuple[str, bool, bool, int, int]]:
    """Yields (kind, is_async, overlaps, bytes, executions) of every collective that a computation runs.

    Args:
        computations: All computations.
        name: The computation.
        times: Executions of it in a step.
        overlaps: Whether others run meanwhile, if an asynchronous operation runs it; else None.
    """
    lines = computations[name].lines
    for number, line in enumerate(lines):
        if found := _INSTRUCTION.search(line):
            meanwhile = _overlaps(lines, number) if found["start"] else bool(overlaps)
            yield found["kind"], bool(found["start"]) or overlaps is not None, meanwhile, _result_bytes(found), times
            continue
        if "-done(" in line:  # the start has counted it
            continue
        called = [each for each in _CALLED.findall(line) if each in computations]
        for branches in _BRANCHES.findall(line):
            called += [each for each in re.findall(r"%?([\w.\-]+)", branches) if each in computations]
        rounds = times * _num_rounds(line, computations) if " while(" in line else times
        meanwhile = _overlaps(lines, number) if " async-start(" in line else overlaps
        for each in called:
            yield from _walk(computations, each, rounds, meanwhile)


_PRODUCTS = re.compile(r" (while|dot|convolution|custom-call)\(|kind=k(Output|Custom)")
"""Instructions that take as long as a collective: loops, matrix products, and fusions around them."""


def _overlaps(lines: Sequence[str], start: int) -> bool:
    """Returns whether products run between the start in a line and its end; the lines are in the order of execution."""
    name = re.match(r"\s*(?:ROOT )?(%?[\w.\-]+) = ", lines[start])
    if name is None:
        return False
    ends = re.compile(rf"-done\([^)]*{re.escape(name[1])}[,)]")
    for line in lines[start + 1 :]:
        if ends.search(line):
            return False
        if _PRODUCTS.search(line):
            return True
    return False


def _result_bytes(found: re.Match) -> int:
    """Returns the bytes of the results; some starts have the type (operands, results, context)."""
    sizes = [_array_bytes(dtype, dims) for dtype, dims in _ARRAY.findall(found["type"])]
    if found["start"] and found["kind"] in ("all-gather", "collective-permute"):
        arrays = [size for size in sizes if size > _MAX_CONTEXT_BYTES]
        sizes = arrays[len(arrays) // 2 :]
    return sum(sizes)


def _array_bytes(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(re.sub(r"\D", "", dtype))
    size = bits
    for dim in filter(None, dims.split(",")):
        size *= int(dim)
    return -(-size // 8)


def _num_rounds(line: str, computations: Mapping[str, _Computation]) -> int:
    """Returns the number of rounds of a loop: the compiler's own, or the constant that the condition compares with."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    body = computations.get(condition[1]) if condition else None
    if body is None:
        return 1
    constants = dict(re.findall(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)", "\n".join(body.lines)))
    root = next((each for each in body.lines if each.lstrip().startswith("ROOT ")), "")
    compared = re.search(r" compare\((.*?)\), direction=LT", root)
    for operand in re.findall(r"%?([\w.\-]+)", compared[1]) if compared else ():
        if operand in constants:
            return int(constants[operand])
    return 1
