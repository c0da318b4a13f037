"""Mixture of datasets in given proportions, as a function of seed and step."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.samplers.epochs import Sampler
from jaxdp.data.samplers.permutation import permute, permute_each
from jaxdp.errors import UserError

BLOCK_ROWS = 1000  # weights of three decimals come out exactly
MIN_BLOCK_ROWS_PER_GROUP = 10  # keeps a block from being filled by one row each of many groups


@dataclass(frozen=True, kw_only=True)
class MixtureSampler(Sampler):
    """Sampler over several groups in fixed proportions; rows are numbered group after group.

    The order is cut into blocks. Each block holds `quotas[g]` rows of group g, scattered over it by a keyed
    permutation. Each group gives its own rows in its own epochs, every row once before any repeats, independently of
    the other groups. A group of quota 0 is never read.

    Proportions are exact over whole blocks; within a batch they vary as in sampling without replacement.
    """

    sizes: tuple[int, ...]  # number of rows of each group
    weights: tuple[float, ...]  # weight of each group, 0 or more; only ratios matter

    def __post_init__(self):
        self._check(self.num_rows)
        if len(self.sizes) != len(self.weights):
            raise ValueError(f"{len(self.sizes)} sizes and {len(self.weights)} weights")
        if any(quota and not size for quota, size in zip(self.quotas, self.sizes, strict=True)):
            raise ValueError(f"a group without rows has weight: sizes {self.sizes}, weights {self.weights}")

    @property
    def num_rows(self) -> int:
        """Rows of all groups."""
        return sum(self.sizes)

    @functools.cached_property
    def quotas(self) -> tuple[int, ...]:
        """Rows of each group in a block, see `block_quotas`."""
        return block_quotas(self.weights)

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return sum(self.quotas)

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """Maps positions to rows, see `Sampler.rows_at`."""
        blocks, offsets = np.divmod(positions, self.block_rows)
        groups, ordinals = np.empty((2, len(positions)), np.int64)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            group_at, rank_at = _block_layout(self.seed, self.quotas, block)
            groups[here], ordinals[here] = group_at[offsets[here]], rank_at[offsets[here]]
        ordinals += blocks * np.array(self.quotas)[groups]
        epochs, members = np.divmod(ordinals, np.array(self.sizes)[groups])
        if self.shuffle:
            members = self._shuffled(groups, epochs, members)
        return (np.cumsum(self.sizes) - self.sizes)[groups] + members

    def _shuffled(self, groups: np.ndarray, epochs: np.ndarray, members: np.ndarray) -> np.ndarray:
        pairs, which = np.unique(epochs * len(self.sizes) + groups, return_inverse=True)
        pairs = [divmod(pair, len(self.sizes)) for pair in pairs.tolist()]
        keys = [("epoch", self.seed, group, epoch) for epoch, group in pairs]
        return permute_each(members, which, [self.sizes[group] for _, group in pairs], keys)

    def shares(self, first_step: int, last_step: int) -> np.ndarray:
        """Counts the rows of each group in the batches first_step, ..., last_step - 1.

        Returns:
            [num_groups] int64, which add up to the rows of these batches.
        """
        if last_step <= first_step:
            return np.zeros(len(self.sizes), np.int64)
        first, last = self.slot(first_step), self.slot(last_step - 1)
        passed = [slot for slot in self.exclusions if first < slot < last]
        return self._shares_of_slots(first, last + 1) - sum(self._shares_of_slots(slot, slot + 1) for slot in passed)

    def _shares_of_slots(self, first: int, end: int) -> np.ndarray:
        return self._rows_before(end) - self._rows_before(first)

    def _rows_before(self, slot: int) -> np.ndarray:
        blocks, rest = divmod(slot * self.global_batch_size, self.block_rows)
        group_at, _ = _block_layout(self.seed, self.quotas, blocks)
        part = np.bincount(group_at[:rest], minlength=len(self.sizes))
        return blocks * np.array(self.quotas, np.int64) + part

    def describe(self) -> dict[str, Any]:
        """Describes the order, see `Sampler.describe`."""
        return {
            "kind": "mixture",
            "seed": self.seed,
            "shuffle": self.shuffle,
            "num_rows": self.num_rows,
            "sizes": list(self.sizes),
            "quotas": list(self.quotas),
            "global_batch_size": self.global_batch_size,
        }


class ConcatenatedSequences:
    """Concatenation of datasets: their sequences, numbered one dataset after the other.

    Args:
        sources: Datasets by name, each with one sequence or more.

    Raises:
        UserError: The arrays of the datasets differ in name, shape or dtype.
    """

    def __init__(self, sources: Mapping[str, SequenceDataset]):
        self._sources = list(sources.values())
        self._ends = np.cumsum([source.num_rows for source in self._sources])
        self.num_rows = int(self._ends[-1])
        forms = {name: _form(source) for name, source in sources.items()}
        first_name, first = next(iter(forms.items()))
        for name, form in forms.items():
            if form != first:
                raise UserError(
                    f"The sources of data.mixture must give the same arrays: {first_name} gives "
                    f"{_spelled(first)}, {name} gives {_spelled(form)}; prepare them alike, or train "
                    "on one of them."
                )

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads sequences, see `SequenceDataset.rows`."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(f"row {indices.min()} or {indices.max()} of {self.num_rows}")
        which = np.searchsorted(self._ends, indices, side="right")
        joined: dict[str, np.ndarray] = {}
        for number in np.unique(which).tolist() or [0]:
            here = which == number
            source = self._sources[number]
            arrays = source.rows(indices[here] - (self._ends[number] - source.num_rows))
            if here.all():
                return arrays
            for name, array in arrays.items():
                if name not in joined:
                    joined[name] = np.empty((len(indices), *array.shape[1:]), array.dtype)
                joined[name][here] = array
        return joined


def mixture_weights(sizes: Sequence[int], weights: Sequence[float | None], temperature: float) -> tuple[float, ...]:
    """Determines the weights of `data.mixture`: as given, else by size.

    Args:
        sizes: Number of rows of each source.
        weights: Weight of each source as configured; None: not given.
        temperature: Exponent of weights by size, see `temperature_weights`; used where no weight is given.

    Raises:
        UserError: Only some sources have weights, or a weight is invalid.
    """
    given = [weight for weight in weights if weight is not None]
    if not given:
        return temperature_weights(sizes, temperature)
    if len(given) < len(weights):
        missing = [number for number, weight in enumerate(weights) if weight is None]
        raise UserError(
            f"data.mixture[{missing[0]}] has no weight, but others have: expected a weight for "
            "every source or for none; add the missing ones, or leave all to data.temperature."
        )
    for number, weight in enumerate(given):
        if not (weight >= 0 and math.isfinite(weight)):
            raise UserError(f"data.mixture[{number}] has weight {weight}: expected 0 or more.")
    if not any(given):
        raise UserError("data.mixture has no source of weight above 0: give one to those to be read.")
    return tuple(float(weight) for weight in given)


def temperature_weights(sizes: Sequence[int], temperature: float) -> tuple[float, ...]:
    """Computes weights by size, w = size^(1 / temperature), which add up to 1.

    Args:
        sizes: Number of rows of each source.
        temperature: 1: proportional to size; higher: more even; inf: equal.

    Raises:
        UserError: The temperature is 0 or less.

    Source: Arivazhagan et al. 2019, Massively Multilingual Neural Machine
    Translation in the Wild, section 4.2.
    """
    if not temperature > 0:
        raise UserError(f"data.temperature={temperature} is out of range: expected more than 0.")
    largest = max(sizes)
    weights = [(size / largest) ** (1 / temperature) for size in sizes]
    # Machines may differ in the last bit of a power, but the order must be the same on all.
    return tuple(float(f"{weight / sum(weights):.9g}") for weight in weights)


def block_quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Rounds weights to whole numbers of rows per block, by largest remainder.

    Every group with weight above 0 gets one row or more, so a weight below 1 / BLOCK_ROWS counts as 1 / BLOCK_ROWS.
    Of equal remainders the first group is rounded up first.

    Args:
        weights: Weights, 0 or more, finite, not all 0.

    Returns:
        [num_groups] quotas that add up to BLOCK_ROWS, or to MIN_BLOCK_ROWS_PER_GROUP per group if that is more.
    """
    block_rows = max(BLOCK_ROWS, MIN_BLOCK_ROWS_PER_GROUP * len(weights))
    quotas = [0] * len(weights)
    shared = {group: Fraction(weight) for group, weight in enumerate(weights) if weight}
    while True:
        total, rows = sum(shared.values()), block_rows - sum(quotas)
        due = {group: weight * rows / total for group, weight in shared.items()}
        small = [group for group in due if due[group] < 1]
        if not small:
            break
        for group in small:
            quotas[group] = 1
            del shared[group]
    for group, rows_due in due.items():
        quotas[group] = math.floor(rows_due)
    by_remainder = sorted(due, key=lambda group: (quotas[group] - due[group], group))
    for group in by_remainder[: block_rows - sum(quotas)]:
        quotas[group] += 1
    return tuple(quotas)


@functools.lru_cache(maxsize=8)  # a batch spans few blocks, and the next batch begins in the last of them
def _block_layout(seed: int, quotas: tuple[int, ...], block: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the layout of a block.

    Returns:
        (group_at, rank_at), [block_rows] each: group at each position of the block, and number of earlier positions of
        the block with the same group.
    """
    block_rows = sum(quotas)
    by_group = np.repeat(np.arange(len(quotas), dtype=np.int32), quotas)
    group_at = by_group[permute(np.arange(block_rows), block_rows, ("mixture", seed, block))]
    rank_at = np.empty(block_rows, np.int32)
    firsts = np.cumsum(quotas) - quotas
    rank_at[np.argsort(group_at, kind="stable")] = np.arange(block_rows) - firsts[by_group]
    for array in (group_at, rank_at):
        array.flags.writeable = False  # the cache shares it
    return group_at, rank_at


def _form(source: SequenceDataset) -> dict[str, tuple]:
    """Returns names, shapes and dtypes of the arrays of a dataset."""
    row = source.rows(np.zeros(1, np.int64))
    return {name: (array.shape[1:], array.dtype.name) for name, array in sorted(row.items())}


def _spelled(form: Mapping[str, tuple]) -> str:
    return ", ".join(f"{name} {list(shape)} {dtype}" for name, (shape, dtype) in form.items())
