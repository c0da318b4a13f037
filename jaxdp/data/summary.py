"""Lines about a dataset for the report before step 1: sizes of its sources, label counts, and what is cut or dropped."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdp.data.dataset import BoundTask, Pairs
from jaxdp.data.labels import Labels
from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.preparing.examples import Examples
from jaxdp.data.source_entries import Source
from jaxdp.data.tokenization import (
    SPLITS,
    Prepared,
)
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.quoting import MAX_NAMES, quoted, quoted_names
from jaxdp.report.terminal import quantity


def source_lines(
    task: BoundTask,
    sources: Sequence[Source],
    prepared: Sequence[Mapping[str, Prepared]],
    rows: Mapping[str, Mapping[str, SequenceDataset]],
    vocabularies: Vocabularies,
) -> list[str]:
    """Returns one line for each source; the last one describes the tokenizers too."""
    lines = []
    for source, splits in zip(sources, prepared, strict=True):
        train, validation = (
            quantity(_num_tokens(splits[split].examples))
            + f" {purpose}{_long(task, rows[split][source.label], splits[split].examples)}"
            for split, purpose in zip(SPLITS, ("tokens for training", "for validation"), strict=True)
        )
        efficiency = getattr(rows["train"][source.label], "efficiency", None)
        lines.append(
            f"{source.label}: {source.extent}, {train}, {validation}"
            + (f", sequences {np.min(efficiency):.1%} full" if efficiency is not None else "")
        )
    lines[-1] += f", {vocabularies.input_tokenizer.describe()}"
    if vocabularies.target_tokenizer:
        lines[-1] += f" and {vocabularies.target_tokenizer.describe()} of targets"
    return lines


def _long(task: BoundTask, rows: SequenceDataset, examples: Examples) -> str:
    """Returns the number of examples that are longer than a sequence, in parentheses; an empty string if there are none."""
    num_cut, num_dropped = (getattr(rows, name, 0) for name in ("num_cut", "num_dropped"))
    if not num_cut and not num_dropped:
        return ""
    action = "cut" if num_cut else "dropped"
    return f" ({num_cut or num_dropped:,} of {examples.num_examples:,} {action}, longer than {_capacity(task)})"


def _capacity(task: BoundTask) -> str:
    """Returns the capacity of a sequence in words."""
    length, target_length = task.row_lengths["tokens"], task.row_lengths.get("target_tokens")
    words = f"{length:,} tokens"
    return words if target_length in (None, length) else f"{words} or a target of {target_length:,}"


def scored_lines(task: BoundTask, pairs: Pairs | None) -> list[str]:
    """Returns a line about scored sources that are cut; no line if there are none."""
    if pairs is None or not pairs.num_cut:
        return []
    return [
        f"{pairs.num_cut:,} of {len(pairs.sources):,} validation sources for scoring cut, longer than "
        f"{task.row_lengths['tokens']:,} tokens"
    ]


def _num_tokens(examples: Examples) -> int:
    return sum(examples.num_values(name) for name in examples.names if examples.is_ragged(name))


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
