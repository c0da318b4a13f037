"""Views of parameter sources: scanned layers one by one, and zeros in place of absent biases."""

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from jaxdp.interop.source import ArraySpec, ParameterSource, SourceView
from jaxdp.trees import SCANNED_LAYERS

_LAYER = re.compile(r"layer_(\d+)")


class Unscanned(SourceView):
    """Parameters with unrolled layers, whether or not the source has scanned ones."""

    def __init__(self, source: ParameterSource):
        """Creates the view; nothing is read."""
        super().__init__(source)
        self._last: tuple[str, np.ndarray] | None = None

    @functools.cached_property
    def _places(self) -> Mapping[str, tuple[str, int | None]]:
        """Path -> (path in the source, index of the layer)."""
        places: dict[str, tuple[str, int | None]] = {}
        for name, spec in self._source.arrays.items():
            elements = name.split("/")
            if SCANNED_LAYERS not in elements:
                places[name] = name, None
                continue
            for layer in range(spec.shape[0]):
                own = [f"layer_{layer}" if element == SCANNED_LAYERS else element for element in elements]
                places["/".join(own)] = name, layer
        return places

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        specs = self._source.arrays
        return {
            path: specs[name] if layer is None else ArraySpec(specs[name].dtype, specs[name].shape[1:])
            for path, (name, layer) in self._places.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Reads a parameter; see `ParameterSource.read`."""
        path, layer = self._places[name]
        if layer is None:
            return self._source.read(path)
        if self._last is None or self._last[0] != path:  # the layers of an array are read one after another
            self._last = None
            self._last = path, self._source.read(path)
        return self._last[1][layer]

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads a parameter in pieces; see `ParameterSource.pieces`."""
        path, layer = self._places[name]
        if layer is None:
            yield from self._source.pieces(path)
        else:
            yield self._source.read(path)[layer].reshape(-1)

    def streams(self) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
        """Yields every parameter in pieces, and reads each scanned array once; see `ParameterSource.streams`."""
        for path, places in itertools.groupby(self._places.items(), lambda place: place[1][0]):
            rest = _Rest(self._source.pieces(path))
            for name, (_, layer) in places:
                size = math.prod(self.arrays[name].shape)
                yield name, rest.take((layer or 0) * size, size)

    def read_all(self) -> Iterator[tuple[str, np.ndarray]]:
        """See `ParameterSource.read_all`."""
        for name, array in self._source.read_all():
            own = [(path, layer) for path, (place, layer) in self._places.items() if place == name]
            yield from ((path, array if layer is None else array[layer]) for path, layer in own)


class Scanned(SourceView):
    """Parameters with scanned layers, whether or not the source has unrolled ones; a layer is read at a time."""

    @functools.cached_property
    def _places(self) -> Mapping[str, list[str]]:
        """Path -> paths in the source, one a layer; of other parameters their own."""
        places: dict[str, dict[int, str]] = {}
        for name in self._source.arrays:
            layers = [match for element in name.split("/") if (match := _LAYER.fullmatch(element))]
            path = "/".join(SCANNED_LAYERS if _LAYER.fullmatch(element) else element for element in name.split("/"))
            places.setdefault(path, {})[int(layers[0][1]) if layers else -1] = name
        return {path: [names[layer] for layer in sorted(names)] for path, names in places.items()}

    def _is_stacked(self, path: str) -> bool:
        return self._places[path] != [path]

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        specs = {path: self._source.arrays[names[0]] for path, names in self._places.items()}
        return {
            path: ArraySpec(spec.dtype, (len(self._places[path]), *spec.shape)) if self._is_stacked(path) else spec
            for path, spec in specs.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Reads a parameter; see `ParameterSource.read`."""
        arrays = [self._source.read(path) for path in self._places[name]]
        return np.stack(arrays) if self._is_stacked(name) else arrays[0]

    def read_all(self) -> Iterator[tuple[str, np.ndarray]]:
        """See `ParameterSource.read_all`."""
        if not any(map(self._is_stacked, self._places)):
            return self._source.read_all()
        self._source.check_whole()
        return super().read_all()


class _Rest:
    """Pieces of an array that are handed out in parts, in order; parts may be left out."""

    def __init__(self, pieces: Iterator[np.ndarray]):
        self._pieces, self._left, self._position = pieces, np.empty(0), 0

    def take(self, start: int, size: int) -> Iterator[np.ndarray]:
        """Yields `size` elements from `start` on."""
        for _ in self._next(start - self._position):
            pass
        yield from self._next(size)

    def _next(self, size: int) -> Iterator[np.ndarray]:
        """Yields the next elements."""
        self._position += size
        while size:
            piece = self._left if self._left.size else next(self._pieces)
            piece, self._left = piece[:size], piece[size:]
            size -= piece.size
            yield piece


class WithZeroBiases(SourceView):
    """Parameters of a model without biases as those of the same model with biases of zero."""

    def __init__(self, source: ParameterSource, shapes: Mapping[str, tuple[int, ...]]):
        """Creates the view; nothing is read.

        Args:
            source: Parameters.
            shapes: Path -> shape of every parameter of the model with biases.
        """
        super().__init__(source)
        self._absent = {
            path: ArraySpec("float32", shape)
            for path, shape in shapes.items()
            if path not in source.arrays and path.endswith("bias")
        }

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        return {**self._source.arrays, **self._absent}

    def read(self, name: str) -> np.ndarray:
        """Reads a parameter; see `ParameterSource.read`."""
        if name in self._absent:
            return np.zeros(self._absent[name].shape, np.float32)
        return self._source.read(name)
