"""Vocabulary rows of a warm start: parameters with a row for each token, and the rows that two tokenizers have in common."""

import json
import re
from typing import NamedTuple

import numpy as np

from jaxdp.data.tokenizers import Tokenizer

VOCABULARY_PARAMETERS = (
    (r"token_embedding", 0, "input"),
    (r"(.*/)?value_embedding_\d+/embedding", 0, "input"),
    (r"target_token_embedding", 0, "output"),
    (r"output/kernel", 1, "output"),
    (r"output/bias", 0, "output"),
    (r"output_bias", 0, "output"),
)
"""Path pattern, axis of the tokens, and the side whose tokenizer numbers them, of parameters of the unrolled model."""


class Rows(NamedTuple):
    """Rows of a parameter that are taken from another one.

    Attributes:
        axis: Axis of the rows.
        size: Number of rows here.
        here: Index here of each row that is taken, `[n] int64`.
        there: Its index there.
        fill: Values of the other rows: "init" or "mean".
        meaning: Description of the rows that are taken, for the report.
    """

    axis: int
    size: int
    here: np.ndarray
    there: np.ndarray
    fill: str
    meaning: str

    @property
    def num_new(self) -> int:
        """Number of rows that the source does not have."""
        return self.size - len(self.here)

    def resized(self, array: np.ndarray) -> np.ndarray:
        """Returns the parameter with its rows here; rows that are to be initialised are zero."""
        taken = np.take(array, self.there, axis=self.axis)
        if len(self.here) == self.size and np.array_equal(self.here, np.arange(self.size)):
            return taken
        rows = np.zeros((self.size, *np.moveaxis(array, self.axis, 0).shape[1:]), array.dtype)
        if self.fill == "mean" and len(self.there):
            rows[:] = np.moveaxis(taken, self.axis, 0).mean(axis=0, dtype=np.float64)
        rows[self.here] = np.moveaxis(taken, self.axis, 0)
        return np.moveaxis(rows, 0, self.axis)

    def is_initialised(self, rank: int) -> np.ndarray | None:
        """Returns which elements the model initialises, in a shape that broadcasts to the parameter; None: none."""
        if self.fill != "init" or not self.num_new:
            return None
        is_new = np.ones(self.size, bool)
        is_new[self.here] = False
        return is_new.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])

    def __str__(self) -> str:
        new = {"init": "initialised", "mean": "the mean of these"}[self.fill]
        return f"{len(self.here)} {self.meaning}" + (f", {self.num_new} new rows: {new}" if self.num_new else "")


def first_rows(axis: int, size: int, size_there: int, fill: str = "init") -> Rows:
    """Returns the first rows of a parameter, as many as both sides have."""
    common = np.arange(min(size, size_there))
    return Rows(axis, size, common, common, fill, "first rows")


def rows_by_token(axis: int, size: int, size_there: int, fill: str, here: Tokenizer, there: Tokenizer) -> Rows:
    """Returns the rows of the tokens that both tokenizers have, by the text of the token in their tokenizer.json.

    Args:
        axis: Axis of the tokens.
        size: Rows here, which may be more than there are tokens.
        size_there: Rows there.
        fill: "init" or "mean".
        here: Tokenizer of the new model.
        there: Tokenizer of the source.
    """
    known = token_ids(there)
    pairs = sorted(
        (index, known[text])
        for text, index in token_ids(here).items()
        if index < size and known.get(text, size_there) < size_there
    )
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return Rows(axis, size, first, second, fill, "rows of tokens that both vocabularies have")


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the id of each token by its text in tokenizer.json, special tokens included."""
    content = json.loads(tokenizer.to_json())
    vocab = content["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {piece: number for number, (piece, _) in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in content["added_tokens"]}


def vocabulary_axis(path: str) -> tuple[int, str] | None:
    """Returns the axis of the tokens of a parameter and its side, "input" or "output"; None: it has none."""
    found = (entry for entry in VOCABULARY_PARAMETERS if re.fullmatch(entry[0], path))
    return next(((axis, side) for _, axis, side in found), None)
