"""Padded sequences of one example each: labelled texts, and pairs of texts."""

from collections.abc import Mapping

import numpy as np

from jaxdp.data.sequences.flat import RaggedArray
from jaxdp.data.sequences.long_documents import find_long
from jaxdp.errors import UserError


class PaddedSequences:
    """Sequences of one example each: a `SequenceDataset`.

    Args:
        arrays: Arrays by name, all of the same examples: a `RaggedArray` of token ids, or `[num_examples, ...]` such as
            labels. The ragged `tokens` is one of them.
        lengths: Positions of a sequence for each ragged array.
        long_documents: Handling of an example with more tokens than positions: error; cut: the first tokens are kept,
            so end of text is lost; drop: the example is left out.
        skips: [num_examples] integers, tokens before those that are kept of a cut example, in every ragged array;
            None: 0.

    Attributes:
        num_rows: Number of examples that are kept.
        num_cut: Number of examples that were cut.
        num_dropped: Number of examples that are left out.

    Raises:
        UserError: See `find_long`; or no example is left.
    """

    def __init__(
        self,
        arrays: Mapping[str, RaggedArray | np.ndarray],
        lengths: Mapping[str, int],
        long_documents: str = "error",
        skips: np.ndarray | None = None,
    ):
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"expected arrays of the same examples, found {sizes} of them")
        self._ragged = {name: array for name in lengths if isinstance(array := arrays[name], RaggedArray)}
        self._others = {name: array for name, array in arrays.items() if not isinstance(array, RaggedArray)}
        self._lengths, self._skips = dict(lengths), skips
        is_long = np.zeros(sizes["tokens"], bool)
        for name, ragged in self._ragged.items():
            is_long |= find_long(ragged.lengths(), lengths[name], long_documents, _length_key(name))
        num_long = int(np.count_nonzero(is_long))
        self.num_cut = num_long if long_documents == "cut" else 0
        self.num_dropped = num_long if long_documents == "drop" else 0
        self.num_rows = len(is_long) - self.num_dropped
        self._kept = np.flatnonzero(~is_long) if self.num_dropped else None
        if not self.num_rows:
            raise UserError(
                f"None of {len(is_long)} examples is left: {self.num_dropped} have more tokens than a row "
                f"({self._lengths}) and were dropped; raise data.length, set data.long_documents=cut, or "
                "give more data."
            )

    def column(self, name: str) -> np.ndarray:
        """Returns an array that is not ragged, such as the labels, of all kept examples: `[num_rows, ...]`."""
        array = self._others[name]
        return array if self._kept is None else array[self._kept]

    def num_tokens(self, name: str = "tokens") -> int:
        """Counts the positions of a ragged array that are not padding, in all sequences."""
        lengths = self._ragged[name].lengths(self._kept)
        return int(np.minimum(lengths, self._lengths[name]).sum())

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads sequences by number.

        Args:
            indices: [n] integers in range(num_rows).

        Returns:
            For each ragged array, such as `tokens`: [n, its length] int32, padded with 0 at the end, and its `num_` array,
            such as `num_tokens`: [n] int32, positions that are not padding. The others as they are stored: [n, ...].

        Raises:
            IndexError: An index is outside range(num_rows).
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(f"row {indices.min()} or {indices.max()} of {self.num_rows}")
        examples = indices if self._kept is None else self._kept[indices]
        rows = {name: np.asarray(array)[examples] for name, array in self._others.items()}
        skips = 0 if self._skips is None else self._skips[examples]
        for name, ragged in self._ragged.items():
            length = self._lengths[name]
            tokens, num_tokens = ragged.take(examples, length, skips)
            rows[name] = np.zeros((len(examples), length), np.int32)
            rows[name][np.arange(length) < num_tokens[:, None]] = tokens
            rows[f"num_{name}"] = num_tokens.astype(np.int32)
        return rows


def _length_key(name: str) -> str:
    """Returns the configuration key of the length of an array: `target_tokens` has `data.target_length`."""
    return f"data.{name.removesuffix('tokens')}length"
