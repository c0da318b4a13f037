"""From the configuration to rows: sources scanned, tokenizer made, text tokenized once and kept.

Starts no backend: it runs before JAX does, and before processes of a run meet.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxdp.data.order.mixture import ConcatenatedRows
from jaxdp.data.pipeline import RowSource
from jaxdp.data.preparing.examples import Examples
from jaxdp.experiment.cache_entries import digest
from jaxdp.experiment.dataset import Data, Group
from jaxdp.experiment.parts import make_task, model_vocab_size
from jaxdp.experiment.ready_data import ready_tokens, streamed
from jaxdp.experiment.rows import check_packing, make_rows, scored_pairs
from jaxdp.experiment.sources import Source, open_sources
from jaxdp.experiment.tokenizing import (
    SPLITS,
    Prepared,
    check_tokenizers,
    make_vocabularies,
    prepare_source,
)
from jaxdp.experiment.vocabularies import NONE, Vocabularies
from jaxdp.terminal import quantity


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
    sources = open_sources(config)
    vocabularies = make_vocabularies(config, sources, known)
    vocab_size = model_vocab_size(config, vocabularies.tokenizer)
    prepared = [prepare_source(config, source, vocabularies) for source in sources]
    task = make_task(config, vocabularies)
    trains, evaluations = (
        {source.label: make_rows(config, task, splits[split]) for source, splits in zip(sources, prepared, strict=True)}
        for split in SPLITS
    )
    fingerprint = sources[0].scan.fingerprint
    if len(sources) > 1:
        fingerprint = digest([source.scan.fingerprint for source in sources])
    return Data(
        vocabularies,
        vocab_size,
        _joined(trains),
        _joined(evaluations),
        tuple(Group(source.label, trains[source.label].num_rows, source.weight) for source in sources),
        fingerprint,
        sum(source.scan.num_characters for source in sources),
        _summary(sources, prepared, trains, vocabularies),
        pairs=scored_pairs(config, task, prepared, vocabularies.written),
    )


def _joined(rows: Mapping[str, RowSource]) -> RowSource:
    return next(iter(rows.values())) if len(rows) == 1 else ConcatenatedRows(rows)


def _summary(
    sources: Sequence[Source],
    prepared: Sequence[Mapping[str, Prepared]],
    rows: Mapping[str, RowSource],
    vocabularies: Vocabularies,
) -> tuple[str, ...]:
    """One line a source, and what holds for all."""
    lines = []
    for source, splits in zip(sources, prepared, strict=True):
        train, held_out = (_num_tokens(splits[split].examples) for split in SPLITS)
        efficiency = getattr(rows[source.label], "efficiency", None)
        lines.append(
            f"{source.label}: {source.extent}, {quantity(train)} tokens to train on, "
            f"{quantity(held_out)} held out"
            + (f", rows {np.min(efficiency):.1%} full" if efficiency is not None else "")
        )
    lines[-1] += f", {vocabularies.tokenizer.describe()}"
    if vocabularies.target_tokenizer:
        lines[-1] += f" and {vocabularies.target_tokenizer.describe()} of targets"
    return tuple(lines)


def _num_tokens(examples: Examples) -> int:
    return sum(len(examples.flat(name)) for name in examples.names if examples.is_ragged(name))
