"""From the configuration to rows: sources scanned, tokenizer made, text tokenized once and kept.

Starts no backend: it runs before JAX does, and before processes of a run meet.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.preparing.cache import discard
from jaxdp.data.preparing.examples import Examples
from jaxdp.data.preparing.scan import DataChanged
from jaxdp.data.samplers.mixture import ConcatenatedSequences
from jaxdp.experiment.cache_entries import cleaning_identity, digest
from jaxdp.experiment.dataset import Data, Group, Pairs
from jaxdp.experiment.label_counts import label_lines
from jaxdp.experiment.named_files import with_word_lists
from jaxdp.experiment.ready_data import (
    evaluation_stream,
    evaluation_tokens,
    ready_tokens,
    streamed,
)
from jaxdp.experiment.rows import check_packing, make_rows, scored_pairs
from jaxdp.experiment.sources import Source, open_evaluation_source, open_sources
from jaxdp.experiment.tokenizing import (
    SPLITS,
    Prepared,
    check_tokenizers,
    make_vocabularies,
    prepare_source,
    with_named_files,
)
from jaxdp.experiment.vocabularies import NONE, Vocabularies
from jaxdp.report.terminal import quantity
from jaxdp.tasks import Task
from jaxdp.training.parts import make_task, model_vocab_size


def read_data(config: ConfigDict, known: Vocabularies = NONE) -> Data:
    """Prepares both splits where that has not been done, and opens them.

    Args:
        config: `task` and its group, `data` and `model.vocab_size` are used.
        known: the run's own tokenizers and labels, as far as they exist already.

    Raises:
        UserError: anything wrong with the data or the keys that describe it.
    """
    check_packing(config)
    check_tokenizers(config)
    if config.data.source == "tokens" and not config.data.mixture:
        return ready_tokens(config)
    if config.data.source == "hf_stream" and not config.data.mixture:
        return streamed(config, known)
    known = with_named_files(config, known)
    config = with_word_lists(config, known.files)
    sources = open_sources(config)
    try:
        return _prepared(config, known, sources)
    except DataChanged:
        for source in sources:
            discard(source.scan_entry)  # should it be what is wrong, the next start scans again
        raise


def read_evaluation_data(config: ConfigDict, known: Vocabularies) -> Data:
    """Prepares and opens data to evaluate on, of which nothing is trained on.

    Args:
        config: `task` and its group, `data` and `model.vocab_size` are used; see `open_evaluation_source`.
        known: The run's own tokenizers and labels.

    Returns:
        Data without rows to train on.

    Raises:
        UserError: Anything wrong with the data or the keys that describe it, e.g. a label that the run does not know.
    """
    check_packing(config)
    if config.data.source == "tokens":
        return evaluation_tokens(config)
    if config.data.source == "hf_stream":
        return evaluation_stream(config, known)
    known = with_named_files(config, known)
    config = with_word_lists(config, known.files)
    source = open_evaluation_source(config)
    try:
        prepared = prepare_source(config, source, known, ("eval",))
        task = make_task(config, known)
        pairs = scored_pairs(config, task, [source], [prepared])
    except DataChanged:
        discard(source.scan_entry)
        raise
    return Data(
        known, model_vocab_size(config, known.tokenizer), None, make_rows(config, task, prepared["eval"]),
        (Group(source.label, 0),), source.scan.fingerprint, source.scan.num_characters, (), pairs=pairs,
    )  # fmt: skip


def _prepared(config: ConfigDict, known: Vocabularies, sources: Sequence[Source]) -> Data:
    """The rows of sources that are scanned."""
    vocabularies = make_vocabularies(config, sources, known)
    vocab_size = model_vocab_size(config, vocabularies.tokenizer)
    prepared = [prepare_source(config, source, vocabularies) for source in sources]
    task = make_task(config, vocabularies)
    rows = {
        split: {source.label: make_rows(config, task, splits[split]) for source, splits in zip(sources, prepared, strict=True)}
        for split in SPLITS
    }
    pairs = scored_pairs(config, task, sources, prepared)
    fingerprint = sources[0].scan.fingerprint
    if len(sources) > 1:
        fingerprint = digest([source.scan.fingerprint for source in sources])
    return Data(
        vocabularies,
        vocab_size,
        _joined(rows["train"]),
        _joined(rows["eval"]),
        tuple(Group(source.label, rows["train"][source.label].num_rows, source.weight) for source in sources),
        fingerprint,
        sum(source.scan.num_characters for source in sources),
        (
            *_summary(task, sources, prepared, rows, vocabularies),
            *label_lines(vocabularies.labels, prepared, can_stratify=_can_stratify(config, sources)),
            *_scored(task, pairs),
        ),
        pairs=pairs,
        cleaning=cleaning_identity(config),
    )


def _can_stratify(config: ConfigDict, sources: Sequence[Source]) -> bool:
    """Whether the validation split is selected, and not by label."""
    return config.data.eval_selection != "stratified" and any(source.evaluation is None for source in sources)


def _joined(rows: Mapping[str, SequenceDataset]) -> SequenceDataset:
    return next(iter(rows.values())) if len(rows) == 1 else ConcatenatedSequences(rows)


def _summary(
    task: Task,
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


def _long(task: Task, rows: SequenceDataset, examples: Examples) -> str:
    """How many examples were too long for a row; nothing where none was, or where rows are windows."""
    num_cut, num_dropped = (getattr(rows, name, 0) for name in ("num_cut", "num_dropped"))
    if not num_cut and not num_dropped:
        return ""
    what = "cut" if num_cut else "dropped"
    return f" ({num_cut or num_dropped:,} of {examples.num_examples:,} {what}, longer than {_places(task)})"


def _places(task: Task) -> str:
    """Room of a row, in words."""
    places, target_places = task.row_lengths["tokens"], task.row_lengths.get("target_tokens")
    words = f"{places:,} tokens"
    return words if target_places in (None, places) else f"{words} or a target of {target_places:,}"


def _scored(task: Task, pairs: Pairs | None) -> list[str]:
    """A line where what is scored is not read whole."""
    if pairs is None or not pairs.num_cut:
        return []
    return [
        f"{pairs.num_cut:,} of {len(pairs.sources):,} held-out sources to be scored cut, longer than "
        f"{task.row_lengths['tokens']:,} tokens"
    ]


def _num_tokens(examples: Examples) -> int:
    return sum(examples.num_values(name) for name in examples.names if examples.is_ragged(name))
