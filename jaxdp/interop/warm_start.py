"""Warm start plan: origin of every parameter of a new model, from the parameters of another and path rules."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdp.data.tokenizers import Tokenizer
from jaxdp.errors import UserError
from jaxdp.interop.init_rules import DROP, EXTEND_POSITIONS, INIT, MATCH_TOKENS, RENAME, RESIZE_VOCAB, Rule
from jaxdp.interop.source import ArraySpec, ParameterSource, SourceView
from jaxdp.interop.vocabulary_rows import Rows, first_rows, rows_by_token, vocabulary_axis
from jaxdp.model import HEAD_PARAMETERS, POSITION_EMBEDDING
from jaxdp.model.lora import is_adapter

MAX_SHOWN = 3
"""Parameters that a message lists."""

Shapes = Mapping[str, tuple[int, ...]]
"""Path of each parameter in the unrolled model -> shape."""

TokenizerPair = tuple[Tokenizer, Tokenizer]
"""Tokenizers of the new model and of the source."""


class Origin(NamedTuple):
    """Origin of a parameter of the new model.

    Attributes:
        source: Path in the source; None: it is initialised.
        shape_there: Shape in the source; None: the source does not have it.
        rows: Rows that are taken if the shape or the order differs; None: all, as they are.
        rules: Rules that it follows from.
    """

    source: str | None
    shape_there: tuple[int, ...] | None = None
    rows: Rows | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def kind(self) -> str:
        """Origin in one word: taken, renamed, resized or initialised."""
        if self.source is None:
            return "initialised"
        if self.rows is not None:
            return "resized"
        return "renamed" if self.rules else "taken"


@dataclasses.dataclass(frozen=True)
class WarmStartPlan:
    """Origin of each parameter of a new model.

    Attributes:
        shapes: Path -> shape of each parameter of the new model.
        origins: Path -> origin of each.
        dropped: Path of each parameter of the source that is not taken -> the rule that drops it, or None.
    """

    shapes: Shapes
    origins: Mapping[str, Origin]
    dropped: Mapping[str, Rule | None]

    def to_json(self) -> dict[str, Any]:
        """Returns the origins as JSON values, as `init.json` keeps them."""
        return {
            "parameters": {path: self._entry(path, origin) for path, origin in self.origins.items()},
            "dropped": {path: rule and rule.text for path, rule in self.dropped.items()},
        }

    def _entry(self, path: str, origin: Origin) -> dict[str, Any]:
        entry: dict[str, Any] = {"origin": origin.kind, "shape": list(self.shapes[path])}
        if origin.source is not None:
            entry |= {"source": origin.source, "source_shape": list(origin.shape_there or ())}
        if origin.rows is not None:
            rows = origin.rows
            entry |= {"rows_taken": len(rows.here), "rows_new": rows.num_new, "fill": rows.fill, "axis": rows.axis}
        return entry | ({"rules": [rule.text for rule in origin.rules]} if origin.rules else {})


def plan_warm_start(
    place: str,
    there: Shapes,
    here: Shapes,
    rules: Sequence[Rule] = (),
    tokenizers: Mapping[str, TokenizerPair] | None = None,
) -> WarmStartPlan:
    """Plans the initial parameters of a model of any task.

    The bodies of both models must be the same except for what the rules change; their heads may differ. Of learned positions
    the first are taken where the source has more.

    Args:
        place: The source, for messages: `init_from=PATH`.
        there: Parameters of the source.
        here: Parameters of the new model.
        rules: Rules of `init_rules`, which apply in their order.
        tokenizers: Side ("input", "output") -> tokenizers, for `match_tokens`; None: they are not known.

    Raises:
        UserError: The body has other names or shapes (both sides are shown), a rule matches nothing, or two parameters of
            the source have one path.
    """
    current, dropped = _renamed(place, there, rules)
    initialised = _initialised(here, rules)
    for path in initialised.keys() & current.keys():
        dropped[current.pop(path)[0]] = initialised[path]
    resizing = {rule.verb: rule for rule in rules if rule.pattern is None}
    origins: dict[str, Origin] = {}
    problems = []
    for path, shape in here.items():
        if path in initialised:
            origins[path] = Origin(None, rules=(initialised[path],))
            continue
        source, renaming = current.get(path, (None, ()))
        if source is None:
            if not (_is_head(path) or is_adapter(path)):
                problems.append(f"{path} is absent there and {shape} here")
            origins[path] = Origin(None)
            continue
        shape_there = there[source]
        rows, rule = _rows(path, shape, shape_there, resizing, tokenizers)
        if rows is None and shape != shape_there:
            if not _is_head(path):
                problems.append(f"{path} is {shape_there} there and {shape} here")
            origins[path] = Origin(None, shape_there)
            continue
        origins[path] = Origin(source, shape_there, rows, (*renaming, *([rule] if rule else [])))
    used = {origin.source for origin in origins.values()}
    left = {path: source for path, (source, _) in current.items() if source not in used}
    absent = [path for path in left if path not in here and not _is_head(path)]
    problems += [f"{path} is {there[left[path]]} there and absent here" for path in absent]
    if problems:
        problems.sort()
        more = f" and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise UserError(
            f"{place} holds another model: {'; '.join(problems[:MAX_SHOWN])}{more}. Set model.* (and data.length for "
            "positions) as in that run's config.json, or change what is taken with init_rules."
        )
    _check_used(resizing.values(), origins)
    return WarmStartPlan(here, origins, dict(sorted({**dropped, **dict.fromkeys(left.values())}.items())))


class WarmStartSource(SourceView):
    """Parameters of a new model, with unrolled layers, as far as a plan takes them from a source; all others are zero."""

    def __init__(self, source: ParameterSource, plan: WarmStartPlan, blank: Sequence[str] = ()):
        """Creates the view; nothing is read.

        Args:
            source: Parameters with unrolled layers.
            plan: Origins.
            blank: Parameters that are initialised and are here nevertheless, as zeros.
        """
        super().__init__(source)
        self._plan, self._blank = plan, frozenset(blank)

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        return {
            path: ArraySpec("float32", tuple(self._plan.shapes[path]))
            for path, origin in self._plan.origins.items()
            if origin.source is not None or path in self._blank
        }

    def read(self, name: str) -> np.ndarray:
        """Reads a parameter; see `ParameterSource.read`."""
        origin = self._plan.origins[name]
        if origin.source is None:
            return np.zeros(self._plan.shapes[name], np.float32)
        return _taken(origin, self._source.read(origin.source))

    def read_all(self) -> Iterator[tuple[str, np.ndarray]]:
        """See `ParameterSource.read_all`."""
        targets = {origin.source: path for path, origin in self._plan.origins.items() if origin.source is not None}
        for name, array in self._source.read_all():
            if name in targets:
                yield targets[name], _taken(self._plan.origins[targets[name]], array)
        yield from ((path, self.read(path)) for path in sorted(self._blank))


def _taken(origin: Origin, array: np.ndarray) -> np.ndarray:
    return array if origin.rows is None else origin.rows.resized(array)


def _renamed(
    place: str, there: Shapes, rules: Sequence[Rule]
) -> tuple[dict[str, tuple[str, tuple[Rule, ...]]], dict[str, Rule | None]]:
    """Applies `rename` and `drop`.

    Returns:
        Path -> (path in the source, rules that renamed it), and the dropped paths of the source with their rules.
    """
    current: dict[str, tuple[str, tuple[Rule, ...]]] = {path: (path, ()) for path in there}
    dropped: dict[str, Rule | None] = {}
    for rule in rules:
        if rule.verb not in (RENAME, DROP):
            continue
        matches = {path: match for path in current if (match := rule.matches(path))}
        if not matches:
            raise UserError(_matches_nothing(rule, place, current))
        moved = {path: current.pop(path) for path in matches}
        if rule.verb == DROP:
            dropped |= {source: rule for source, _ in moved.values()}
            continue
        for path, (source, earlier) in moved.items():
            target = matches[path].expand(rule.argument)
            if target in current:
                raise UserError(
                    f"{rule} of init_rules gives {target} to two parameters of {place}: {current[target][0]} and {source}; "
                    "drop one with a rule before it."
                )
            current[target] = source, (*earlier, rule)
    return current, dropped


def _initialised(here: Shapes, rules: Sequence[Rule]) -> dict[str, Rule]:
    """Returns the parameters of the new model that `init` rules match, each with the first such rule."""
    found: dict[str, Rule] = {}
    for rule in rules:
        if rule.verb == INIT:
            matching = [path for path in here if rule.matches(path)]
            if not matching:
                raise UserError(_matches_nothing(rule, "the new model", here))
            found = dict.fromkeys(matching, rule) | found
    return found


def _rows(
    path: str,
    shape: tuple[int, ...],
    shape_there: tuple[int, ...],
    resizing: Mapping[str, Rule],
    tokenizers: Mapping[str, TokenizerPair] | None,
) -> tuple[Rows | None, Rule | None]:
    """Returns the rows that are taken of a parameter of another size or vocabulary, and the rule; None: none, or all as they are."""
    axis, side = vocabulary_axis(path) or (0, "")
    others_differ = len(shape) != len(shape_there) or any(
        size != size_there
        for each, (size, size_there) in enumerate(zip(shape, shape_there, strict=True))
        if each != axis
    )
    if others_differ:
        return None, None
    size, size_there = (shape[axis], shape_there[axis]) if shape else (1, 1)
    if side and (rule := resizing.get(MATCH_TOKENS)):
        if tokenizers is None:
            raise UserError(
                f"{rule} of init_rules needs the tokenizers of both models; use {RESIZE_VOCAB}, which goes by id."
            )
        return rows_by_token(axis, size, size_there, rule.argument, *tokenizers[side]), rule
    if size == size_there:
        return None, None
    if side and (rule := resizing.get(RESIZE_VOCAB)):
        return first_rows(axis, size, size_there, rule.argument), rule
    if path == POSITION_EMBEDDING:
        if size < size_there:
            return first_rows(axis, size, size_there), None
        if rule := resizing.get(EXTEND_POSITIONS):
            return first_rows(axis, size, size_there, rule.argument), rule
    return None, None


def _check_used(rules, origins: Mapping[str, Origin]) -> None:
    """Raises UserError for a rule that resizes nothing."""
    used = {rule for origin in origins.values() for rule in origin.rules}
    for rule in rules:
        if rule not in used:
            key = "data.length" if rule.verb == EXTEND_POSITIONS else "model.vocab_size"
            raise UserError(
                f"{rule} of init_rules changes nothing; leave it out, or set {key} above that of the source."
            )


def _matches_nothing(rule: Rule, where: str, paths: Mapping[str, Any]) -> str:
    shown = ", ".join(sorted(paths)[:MAX_SHOWN])
    return f"{rule} of init_rules matches no parameter of {where}; expected a regular expression for whole paths such as {shown}."


def _is_head(path: str) -> bool:
    return path.split("/")[0] in HEAD_PARAMETERS
