"""Fixed-length windows of a flat token array."""

import numpy as np

from jaxdp.data.sequences.flat import FlatArray, as_flat
from jaxdp.errors import UserError


class TokenWindows:
    """Sequences of equal length: row i is `tokens[i * length : i * length + length + 1]`.

    A row has one token more than the model reads, since targets are inputs shifted by one. That token is also the first
    of the next row, so every token except the very first is a target exactly once.

    Args:
        tokens: [num_tokens] of any integer dtype, an array in memory or a `FlatArray`.
        length: Number of tokens that the model reads, 1 or more.
        keep_tail: True keeps a short last window, padded with 0, so that evaluation reads every token; False drops it,
            for training.
        num_tokens: Number of `tokens`, from the first, that are used; None: all.

    Raises:
        UserError: There are too few tokens for one row: length + 1 for training, 2 for evaluation.
    """

    def __init__(
        self,
        tokens: np.ndarray | FlatArray,
        length: int,
        keep_tail: bool,
        num_tokens: int | None = None,
    ):
        self._tokens = as_flat(tokens)
        self._num_tokens = len(self._tokens) if num_tokens is None else num_tokens
        if length < 1:
            raise UserError(f"data.length={length} is too short: expected 1 or more.")
        split = "evaluation" if keep_tail else "training"
        min_tokens = 2 if keep_tail else length + 1
        if self._num_tokens < min_tokens:
            raise UserError(
                f"The {split} split has {self._num_tokens} tokens, too few for one row, which takes {min_tokens} or "
                "more: give more data or change data.length or data.eval_fraction."
            )
        self.length = length
        num_targets = self._num_tokens - 1
        self.num_rows = -(-num_targets // length) if keep_tail else num_targets // length

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads windows by number.

        Args:
            indices: [n] integers in range(num_rows).

        Returns:
            `tokens` [n, length + 1] int32 and `num_tokens` [n] int32, the number of them that are not padding.

        Raises:
            IndexError: An index is outside range(num_rows).
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(f"row {indices.min()} or {indices.max()} of {self.num_rows}")
        starts = indices * self.length
        num_tokens = np.minimum(self._num_tokens - starts, self.length + 1)
        is_whole = num_tokens == self.length + 1
        if is_whole.all():
            tokens = self._tokens.take(starts, self.length + 1).astype(np.int32)
        else:
            # Only the very last window can be short, so those that are have one length.
            tail = int(num_tokens.min())
            tokens = np.zeros((len(indices), self.length + 1), np.int32)
            tokens[is_whole] = self._tokens.take(starts[is_whole], self.length + 1)
            tokens[~is_whole, :tail] = self._tokens.take(starts[~is_whole], tail)
        return {"tokens": tokens, "num_tokens": num_tokens.astype(np.int32)}
