"""From the configuration to rows: sources scanned, tokenizer made, text tokenized once and kept.

Starts no backend: it runs before JAX does, and before processes of a run meet.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxdp.data.cache_keys import cleaning_identity, digest
from jaxdp.data.dataset import Dataset, Group, Pairs
from jaxdp.data.direct_sources import (
    evaluation_stream,
    evaluation_tokens,
    ready_tokens,
    streamed,
)
from jaxdp.data.label_counts import label_lines
from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.preparing.cache import discard
from jaxdp.data.preparing.examples import Examples
from jaxdp.data.preparing.scan import DataChanged
from jaxdp.data.samplers.mixture import ConcatenatedSequences
from jaxdp.data.sequences.make import check_packing, make_rows, scored_pairs
from jaxdp.data.source_scan import Source, open_evaluation_source, open_sources
from jaxdp.data.spec import BoundTask, DatasetSpec
from jaxdp.data.tokenization import (
    SPLITS,
    Prepared,
    check_tokenizers,
    make_vocabularies,
    prepare_source,
    with_named_files,
)
from jaxdp.data.vocabularies import NONE, Vocabularies
from jaxdp.report.terminal import quantity


def load_dataset(spec: DatasetSpec, known: Vocabularies = NONE) -> Dataset:
    """Prepares both splits where that has not been done, and opens them.

    Args:
        spec: Specification of the dataset.
        known: the run's own tokenizers and labels, as far as they exist already.

    Raises:
        UserError: anything wrong with the data or the keys that describe it.
    """
    check_packing(spec)
    check_tokenizers(spec)
    if not spec.has_texts:
        return ready_tokens(spec)
    if spec.is_stream:
        return streamed(spec, known)
    known = with_named_files(spec, known)
    spec = spec.with_word_lists(known.files)
    sources = open_sources(spec)
    try:
        return _prepared(spec, known, sources)
    except DataChanged:
        for source in sources:
            discard(source.scan_entry)  # should it be what is wrong, the next start scans again
        raise


def load_evaluation_dataset(spec: DatasetSpec, known: Vocabularies) -> Dataset:
    """Prepares and opens data to evaluate on, of which nothing is trained on.

    Args:
        spec: Specification of the dataset; see `open_evaluation_source`.
        known: The run's own tokenizers and labels.

    Returns:
        Data without rows to train on.

    Raises:
        UserError: Anything wrong with the data or the keys that describe it, e.g. a label that the run does not know.
    """
    check_packing(spec)
    if spec.data.source == "tokens":
        return evaluation_tokens(spec)
    if spec.data.source == "hf_stream":
        return evaluation_stream(spec, known)
    known = with_named_files(spec, known)
    spec = spec.with_word_lists(known.files)
    source = open_evaluation_source(spec)
    try:
        prepared = prepare_source(spec, source, known, ("eval",))
        task = spec.task.bind(known)
        pairs = scored_pairs(spec, task, [source], [prepared])
    except DataChanged:
        discard(source.scan_entry)
        raise
    return Dataset(
        known, spec.model_vocab_size(known.tokenizer), None, make_rows(spec, task, prepared["eval"]),
        (Group(source.label, 0),), source.scan.fingerprint, source.scan.num_characters, (), pairs=pairs,
    )  # fmt: skip


def _prepared(spec: DatasetSpec, known: Vocabularies, sources: Sequence[Source]) -> Dataset:
    """The rows of sources that are scanned."""
    vocabularies = make_vocabularies(spec, sources, known)
    vocab_size = spec.model_vocab_size(vocabularies.tokenizer)
    prepared = [prepare_source(spec, source, vocabularies) for source in sources]
    task = spec.task.bind(vocabularies)
    rows = {
        split: {source.label: make_rows(spec, task, splits[split]) for source, splits in zip(sources, prepared, strict=True)}
        for split in SPLITS
    }
    pairs = scored_pairs(spec, task, sources, prepared)
    fingerprint = sources[0].scan.fingerprint
    if len(sources) > 1:
        fingerprint = digest([source.scan.fingerprint for source in sources])
    return Dataset(
        vocabularies,
        vocab_size,
        _joined(rows["train"]),
        _joined(rows["eval"]),
        tuple(Group(source.label, rows["train"][source.label].num_rows, source.weight) for source in sources),
        fingerprint,
        sum(source.scan.num_characters for source in sources),
        (
            *_summary(task, sources, prepared, rows, vocabularies),
            *label_lines(vocabularies.labels, prepared, can_stratify=_can_stratify(spec, sources)),
            *_scored(task, pairs),
        ),
        pairs=pairs,
        cleaning=cleaning_identity(spec.data),
    )


def _can_stratify(spec: DatasetSpec, sources: Sequence[Source]) -> bool:
    """Whether the validation split is selected, and not by label."""
    return spec.data.eval_selection != "stratified" and any(source.evaluation is None for source in sources)


def _joined(rows: Mapping[str, SequenceDataset]) -> SequenceDataset:
    return next(iter(rows.values())) if len(rows) == 1 else ConcatenatedSequences(rows)


def _summary(
    task: BoundTask,
    sources: Sequence[Source],
    prepared: Sequence[Mapping[str, Prepared]],
    rows: Mapping[str, Mapping[str, SequenceDataset]],
    vocabularies: Vocabularies,
) -> list[str]:
    """One line a source, and what holds for all."""
    lines = []
    for source, splits in zip(sources, prepared, strict=True):
        train, held_out = (
            quantity(_num_tokens(splits[split].examples))
            + f" {what}{_long(task, rows[split][source.label], splits[split].examples)}"
            for split, what in zip(SPLITS, ("tokens to train on", "held out"), strict=True)
        )
        efficiency = getattr(rows["train"][source.label], "efficiency", None)
        lines.append(
            f"{source.label}: {source.extent}, {train}, {held_out}"
            + (f", rows {np.min(efficiency):.1%} full" if efficiency is not None else "")
        )
    lines[-1] += f", {vocabularies.tokenizer.describe()}"
    if vocabularies.target_tokenizer:
        lines[-1] += f" and {vocabularies.target_tokenizer.describe()} of targets"
    return lines


def _long(task: BoundTask, rows: SequenceDataset, examples: Examples) -> str:
    """How many examples were too long for a row; nothing where none was, or where rows are windows."""
    num_cut, num_dropped = (getattr(rows, name, 0) for name in ("num_cut", "num_dropped"))
    if not num_cut and not num_dropped:
        return ""
    what = "cut" if num_cut else "dropped"
    return f" ({num_cut or num_dropped:,} of {examples.num_examples:,} {what}, longer than {_places(task)})"


def _places(task: BoundTask) -> str:
    """Room of a row, in words."""
    places, target_places = task.row_lengths["tokens"], task.row_lengths.get("target_tokens")
    words = f"{places:,} tokens"
    return words if target_places in (None, places) else f"{words} or a target of {target_places:,}"


def _scored(task: BoundTask, pairs: Pairs | None) -> list[str]:
    """A line where what is scored is not read whole."""
    if pairs is None or not pairs.num_cut:
        return []
    return [
        f"{pairs.num_cut:,} of {len(pairs.sources):,} held-out sources to be scored cut, longer than "
        f"{task.row_lengths['tokens']:,} tokens"
    ]


def _num_tokens(examples: Examples) -> int:
    return sum(examples.num_values(name) for name in examples.names if examples.is_ragged(name))
