"""Mapping of a family's tensors to parameter paths, in both directions, with every tensor accounted for."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxdp.errors import UserError
from jaxdp.interop.families.family import Architecture, Family, Row
from jaxdp.interop.source import ArraySpec, ParameterSource, SourceView

MAX_SHOWN = 4
"""Names of one side that a message lists."""


class Tensor(NamedTuple):
    """Tensor of a Hugging Face folder and the parameters that it holds.

    Attributes:
        theirs: Name in the folder, without the prefix of the body.
        in_body: Whether the body's prefix belongs before it.
        ours: Paths of the parameters, whose last axes are joined.
        transposed: Whether the tensor is the transpose.
        is_row: Whether the tensor has a first axis of size 1 more.
    """

    theirs: str
    in_body: bool
    ours: tuple[str, ...]
    transposed: bool
    is_row: bool

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Returns the shape of the tensor, from the shapes of the parameters."""
        first = shapes[self.ours[0]]
        shape = (*first[:-1], sum(shapes[path][-1] for path in self.ours))
        shape = shape[::-1] if self.transposed else shape
        return (1, *shape) if self.is_row else shape

    def parts(self, array: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Returns the parameters of the tensor's values, as views of them."""
        array = array[0] if self.is_row else array
        array = array.T if self.transposed else array
        ends = list(itertools.accumulate(shapes[path][-1] for path in self.ours))
        starts = [0, *ends[:-1]]
        return {path: array[..., start:end] for path, start, end in zip(self.ours, starts, ends, strict=True)}

    def joined(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        """Returns the tensor of its parameters' values; the inverse of `parts`."""
        arrays = list(parts)
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
        array = array.T if self.transposed else array
        return array[None] if self.is_row else array


def tensors_of(family: Family, architecture: Architecture, paths: Iterable[str]) -> list[Tensor]:
    """Expands the tables of a family for a model with these parameter paths.

    Raises:
        UserError: A parameter is in no table, so the family cannot express the model.
    """
    known, tensors = set(paths), []
    for in_body, rows in ((True, (*family.body, *architecture.body)), (False, architecture.head)):
        for theirs, ours in rows:
            for layer in itertools.count():
                path, applies = _condition(ours.replace("{}", str(layer)), known)
                tensor = _tensor(theirs.format(layer), in_body, path)
                if applies and known.issuperset(tensor.ours):
                    tensors.append(tensor)
                elif layer and known.isdisjoint(tensor.ours):
                    break
                if "{}" not in ours or layer > len(known):
                    break
    left = known - {path for tensor in tensors for path in tensor.ours}
    if left:
        raise UserError(f"{family.model_type} has no tensor for {_listed(left)} of the model.")
    return tensors


def _condition(ours: str, known: set[str]) -> tuple[str, bool]:
    """Returns the path of a row, and whether the row applies to a model with the parameters `known`."""
    for mark, is_needed in (("?", True), ("!", False)):
        path, found, other = ours.partition(mark)
        if found:
            return path, (other in known) == is_needed
    return ours, True


def _tensor(theirs: str, in_body: bool, ours: str) -> Tensor:
    path, *marks = ours.split(".")
    elements = path.split("/")
    choices = next((element for element in elements if "|" in element), "")
    paths = tuple(path.replace(choices, choice) for choice in choices.split("|")) if choices else (path,)
    return Tensor(theirs, in_body, paths, "T" in marks, "1" in marks)


def with_spare(
    source: ParameterSource, family: Family, architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Architecture, dict[str, tuple[int, ...]]]:
    """Returns a class and its parameters with those of its spare tensors that a folder has."""
    names = _canonical(source, family)
    rows = tuple(row for row in architecture.spare if row[0] in names)
    added: dict[str, tuple[int, ...]] = {}
    for theirs, ours in rows:
        tensor, shape = _tensor(theirs, False, ours), source.arrays[names[theirs]].shape
        added |= dict.fromkeys(tensor.ours, shape[::-1] if tensor.transposed else shape)
    return dataclasses.replace(architecture, head=architecture.head + rows), {**shapes, **added}


class MappedSource(SourceView):
    """Tensors of a Hugging Face folder as float32 parameters of jaxdp."""

    def __init__(
        self,
        source: ParameterSource,
        family: Family,
        architecture: Architecture,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        is_tied: bool,
    ):
        """Accounts for every tensor.

        Args:
            source: Tensors of the folder.
            family: Family of the model.
            architecture: Its class.
            shapes: Path -> shape of each parameter of the model.
            is_tied: Whether the embeddings are tied.

        Raises:
            UserError: A tensor is missing, left over or of another shape, or two that must be equal differ.
        """
        super().__init__(source)
        self._shapes = shapes
        names = _canonical(source, family)
        tensors = tensors_of(family, architecture, shapes)
        equal = (*architecture.equal, *(architecture.tied if is_tied else ()))
        found = {tensor.theirs: _found(tensor.theirs, names, equal, source) for tensor in tensors}
        for other, replaced in () if is_tied else architecture.untied:
            if other in names and replaced in found:
                found[replaced] = [names[other], *found[replaced]]
        for absent, other in () if is_tied else architecture.absent:
            if absent in found and not found[absent] and other in found:
                found[absent] = found[other]
        ignored = (*family.ignored, *architecture.ignored)
        used = {name for each in found.values() for name in each}
        left = [
            name
            for name, theirs in names.items()
            if theirs not in used and not any(re.fullmatch(pattern, name) for pattern, _ in ignored)
        ]
        missing = [tensor.theirs for tensor in tensors if not found[tensor.theirs]]
        if left or missing:
            raise UserError(
                f"the tensors of {source.path} are not those of {family.model_type}: only in the folder: {_listed(left)}; only "
                f"in the model: {_listed(missing)}."
            )
        self._places: dict[str, tuple[str, Tensor]] = {}
        for tensor in tensors:
            name = found[tensor.theirs][0]
            expected, shape = tensor.shape(shapes), source.arrays[name].shape
            if expected != shape:
                raise UserError(
                    f"{name} of {source.path} has the shape {list(shape)}, and config.json describes {list(expected)} "
                    f"({' and '.join(tensor.ours)}); the folder's files do not belong together."
                )
            self._places |= dict.fromkeys(tensor.ours, (name, tensor))
        self._last: tuple[str, np.ndarray] | None = None

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        return {path: ArraySpec("float32", tuple(self._shapes[path])) for path in self._places}

    @property
    def dtypes(self) -> dict[str, str]:
        """Name -> dtype of each tensor that is used."""
        return {name: self._source.arrays[name].dtype for name, _ in self._places.values()}

    def dtype_of(self, name: str) -> str:
        """Returns the dtype of the tensor that holds a parameter."""
        return self._source.arrays[self._places[name][0]].dtype

    def read(self, name: str) -> np.ndarray:
        """Reads a parameter; see `ParameterSource.read`."""
        theirs, tensor = self._places[name]
        if self._last is None or self._last[0] != theirs:  # the parts of a tensor are read one after another
            self._last = None
            self._last = theirs, self._source.read(theirs)
        part = tensor.parts(self._last[1], self._shapes)[name]
        return np.ascontiguousarray(part, dtype=np.float32)


def _canonical(source: ParameterSource, family: Family) -> dict[str, str]:
    """Returns name without prefix and in present spelling -> name in the folder."""
    names: dict[str, str] = {}
    for theirs in source.arrays:
        name = theirs
        for prefix in family.prefixes:
            if theirs.startswith(prefix):
                name = theirs.removeprefix(prefix)
                break
        for pattern, replacement in family.renamed:
            name = re.sub(pattern, replacement, name)
        if name in names:
            raise UserError(f"{source.path} has {name} twice: as {names[name]} and as {theirs}.")
        names[name] = theirs
    return names


def _found(name: str, names: Mapping[str, str], equal: Iterable[Row], source: ParameterSource) -> list[str]:
    """Returns the tensors of the folder that hold a tensor: itself and those that must equal it, if they do.

    Raises:
        UserError: Two of them differ.
    """
    wanted = [name, *(other for other, same in equal if same == name)]
    present = [names[each] for each in wanted if each in names]
    for other in present[1:]:
        first, second = source.arrays[present[0]], source.arrays[other]
        if first != second or not _same_bits(source.read(present[0]), source.read(other)):
            raise UserError(
                f"{present[0]} and {other} of {source.path} are tied by config.json and differ in value; set "
                "tie_word_embeddings there to false if the model has an output layer of its own."
            )
    return present


def _same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return np.array_equal(first.reshape(-1).view(np.uint8), second.reshape(-1).view(np.uint8))


def exported(
    source: ParameterSource,
    family: Family,
    architecture: Architecture,
    dtype_of: Callable[[str], str],
    *,
    is_tied: bool,
) -> tuple[dict[str, ArraySpec], Callable[[str], np.ndarray]]:
    """Returns the tensors of a Hugging Face folder for parameters of jaxdp, and the function that makes each.

    Args:
        source: Parameters by path.
        family: Family of the model.
        architecture: Class that is written.
        dtype_of: Function from the name of a tensor to its dtype.
        is_tied: Whether the embeddings are tied.
    """
    shapes = {path: spec.shape for path, spec in source.arrays.items()}
    tensors = {
        (architecture.prefix if tensor.in_body else "") + tensor.theirs: tensor
        for tensor in tensors_of(family, architecture, shapes)
    }
    for other, replaced in () if is_tied else architecture.untied:
        if replaced in tensors:
            tensors[other] = tensors[replaced]
    specs = {name: ArraySpec(dtype_of(name), tensor.shape(shapes)) for name, tensor in tensors.items()}

    def make(name: str) -> np.ndarray:
        tensor = tensors[name]
        return tensor.joined(map(source.read, tensor.ours)).astype(specs[name].dtype, copy=False)

    return specs, make


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return (", ".join(names[:MAX_SHOWN]) or "nothing") + more
