"""Data preparation of `jaxdp prepare`, and its dry run."""

from collections.abc import Sequence

import numpy as np

from jaxdp.data.assembly import load_dataset
from jaxdp.data.dataset import DatasetSpec
from jaxdp.data.preparing.cache import is_whole
from jaxdp.data.source_entries import Source, open_sources
from jaxdp.data.tokenization import (
    existing_vocabularies,
    num_workers,
    tokens_place,
    with_named_files,
)
from jaxdp.data.vocabularies import NONE
from jaxdp.errors import UserError
from jaxdp.report.terminal import memory_size, quantity

CHARACTERS_PER_TOKEN = 3.5
"""Estimate for subword tokenizers that are not trained yet."""

Rows = list[tuple[str, str]]


def prepare(spec: DatasetSpec, *, dry_run: bool = False) -> Rows:
    """Prepares the data and describes it.

    Args:
        spec: Specification of the dataset.
        dry_run: Whether to only read the data and describe the work.

    Returns:
        Names and values for a table.

    Raises:
        UserError: The data or the keys that describe it are wrong.
    """
    if not spec.has_texts:
        raise UserError("data.source=tokens needs no preparation: train on it directly.")
    if dry_run:
        return _plan(spec)
    data = load_dataset(spec)

    spec = spec.with_word_lists(data.vocabularies.files)
    rows = [("data", line) for line in data.summary]
    num_rows = (data.train_sequences.num_rows, data.evaluation.num_rows)
    rows.append(("sequences", f"{num_rows[0]:,} for training, {num_rows[1]:,} for validation"))
    sources = open_sources(spec)
    places = [tokens_place(spec, source, data.vocabularies) for source in sources]
    return rows + _cleaned(sources) + [("cache", str(place)) for place in places]


def _plan(spec: DatasetSpec) -> Rows:
    """Describes the work of `prepare` without doing it."""
    files = with_named_files(spec, NONE).files
    spec = spec.with_word_lists(files)
    sources = open_sources(spec, dry_run=True)
    vocabularies = existing_vocabularies(spec, sources, files)
    are_made = vocabularies.tokenizer and (vocabularies.target_tokenizer or not spec.data.target_tokenizer)
    rows: Rows = []
    for source in sources:
        scan = source.scan
        rows.append(
            (
                source.label,
                f"{sum(scan.part_records):,} records in {source.extent}, {quantity(scan.num_characters)} "
                f"characters after cleaning, {quantity(scan.train_characters)} of them for training",
            )
        )
        place = are_made and tokens_place(spec, source, vocabularies)
        if place and is_whole(place):
            rows.append(("", f"is ready: {place}"))
            continue
        workers = num_workers(spec, scan.num_characters)
        rows.append(
            (
                "",
                f"would be tokenized by {workers or 1} process{'es' if workers > 1 else ''} into {_size(spec, scan.num_characters)}",
            )
        )
    if not are_made:
        names = " and ".join(filter(None, (spec.data.tokenizer, spec.data.target_tokenizer)))
        rows.append(("tokenizer", f"{names} would be built from the training split"))
    return rows + _cleaned(sources)


def _size(spec: DatasetSpec, num_characters: int) -> str:
    """Returns the estimated number of tokens and bytes on disk."""
    kind, _, size = spec.data.tokenizer.partition(":")
    characters_a_token = 1 if kind in ("byte", "char") else CHARACTERS_PER_TOKEN
    vocab_size = int(size) if size.isascii() and size.isdigit() else 257 if kind == "byte" else 1 << 16
    token_bytes = np.min_scalar_type(vocab_size - 1).itemsize
    tokens = num_characters / characters_a_token
    return f"about {quantity(tokens)} tokens, {memory_size(tokens * token_bytes)}"


def _cleaned(sources: Sequence[Source]) -> Rows:
    """Returns the effect of each cleaning step."""
    return [
        (
            "cleaning",
            f"{step['step']}: {step['changed']:,} of {step['seen']:,} records changed, {step['dropped']:,} dropped",
        )
        for source in sources
        for step in source.scan.cleaned
    ]
