"""Sampler construction from the configuration: epochs, a mixture of sources, or balanced labels."""

import numpy as np

from jaxdp.data.dataset import Dataset
from jaxdp.data.samplers.balanced import BalancedSampler, balanced_sampler
from jaxdp.data.samplers.epochs import EpochSampler, Sampler
from jaxdp.data.samplers.mixture import MixtureSampler, mixture_weights
from jaxdp.data.samplers.shards import PARTITIONS
from jaxdp.data.sequences.padded import PaddedSequences
from jaxdp.data.spec import DatasetSpec
from jaxdp.errors import UserError


def make_sampler(spec: DatasetSpec, data: Dataset, exclusions: tuple[int, ...] = ()) -> Sampler:
    """Builds the sampler of a run."""
    if spec.data.partition not in PARTITIONS:
        raise UserError(f"data.partition={spec.data.partition!r} is unknown; choose one of: {', '.join(PARTITIONS)}.")
    shared = {
        "global_batch_size": spec.global_batch_size,
        "seed": spec.seed,
        "shuffle": spec.data.shuffle,
        "exclusions": exclusions,
    }
    if spec.data.balanced:
        return balanced_sampler(_labels_of_rows(data), len(data.vocabularies.labels.names), **shared)
    if len(data.groups) == 1:
        return EpochSampler(num_rows=data.train.num_rows, **shared)
    sizes = tuple(group.num_rows for group in data.groups)
    weights = mixture_weights(sizes, [group.weight for group in data.groups], spec.data.temperature)
    return MixtureSampler(sizes=sizes, weights=weights, **shared)


def _labels_of_rows(data: Dataset) -> np.ndarray:
    """Returns the label of each training sequence: [num_rows] integers.

    Raises:
        UserError: The sequences do not have one label each.
    """
    labels = data.vocabularies.labels
    if labels is None or labels.kind != "single_label" or not isinstance(data.train, PaddedSequences):
        raise UserError(
            "data.balanced needs examples of one source with one label each: set it to False, or use "
            "task=classification with classification.kind=single_label."
        )
    return data.train.column("label")


def source_shares(order: Sampler, data: Dataset, first_step: int, last_step: int) -> dict[str, float]:
    """Returns `data/share/<name>`: the fraction of sequences from each source of a mixture, or with each balanced label.

    It covers batch(first_step) .. batch(last_step - 1). Other samplers have no shares: {}.
    """
    if not isinstance(order, MixtureSampler):
        return {}
    is_balanced = isinstance(order, BalancedSampler)
    names = data.vocabularies.labels.names if is_balanced else [group.name for group in data.groups]
    rows = order.shares(first_step, last_step)
    return {f"data/share/{name}": float(share) for name, share in zip(names, rows / rows.sum(), strict=True)}
