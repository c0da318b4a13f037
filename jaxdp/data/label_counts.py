"""Label counts of the training and the validation split, for the report before step 1."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdp.data.labels import Labels
from jaxdp.data.tokenization import SPLITS, Prepared
from jaxdp.quoting import MAX_NAMES, quoted, quoted_names


def label_lines(labels: Labels | None, prepared: Sequence[Mapping[str, Prepared]], *, can_stratify: bool) -> list[str]:
    """Returns a line with the examples of each label in both splits, and a warning about labels without validation examples.

    Args:
        labels: Label vocabulary; without one, or without names, there is no line.
        prepared: Both splits of each source.
        can_stratify: Whether another `data.eval_selection` would give the validation split examples of these labels.
    """
    if labels is None or not labels.names:
        return []
    train, validation = (_counts(labels, [splits[split] for splits in prepared]) for split in SPLITS)
    order = np.argsort(-(train + validation), kind="stable")[:MAX_NAMES]
    shown = ", ".join(f"{quoted(labels.names[number])} {train[number]:,} + {validation[number]:,}" for number in order)
    if len(labels.names) > MAX_NAMES:
        shown += f" and {len(labels.names) - MAX_NAMES:,} more"
    lines = [f"{len(labels.names):,} labels, examples for training + validation: {shown}"]
    absent = [name for name, count in zip(labels.names, validation.tolist(), strict=True) if not count]
    if absent:
        line = f"WARNING: the validation split has no example of {quoted_names(absent)}: metrics are over the labels that occur"
        lines.append(
            line + ("; data.eval_selection=stratified holds out examples of every label" if can_stratify else "")
        )
    return lines


def _counts(labels: Labels, splits: Sequence[Prepared]) -> np.ndarray:
    """Returns the number of examples with each label: [num_labels] int64."""
    counts = np.zeros(len(labels.names), np.int64)
    for split in splits:
        if "labels" in split.examples.names:  # several labels per record
            flat = split.examples.flat("labels")
            numbers = flat.take(np.zeros(1, np.int64), len(flat))[0]
        else:
            numbers = split.examples.scalars("label")
        counts += np.bincount(numbers.astype(np.int64), minlength=len(counts))
    return counts
