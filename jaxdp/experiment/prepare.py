"""`jaxdp prepare`: the data of a configuration made ready, or what that would take."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxdp.data.preparing.cache import is_whole
from jaxdp.errors import UserError
from jaxdp.experiment.data import read_data
from jaxdp.experiment.named_files import with_word_lists
from jaxdp.experiment.sources import Source, open_sources
from jaxdp.experiment.tokenizing import (
    existing_vocabularies,
    num_workers,
    tokens_place,
    with_named_files,
)
from jaxdp.experiment.vocabularies import NONE
from jaxdp.report.terminal import memory_size, quantity

USUAL_CHARACTERS_A_TOKEN = 3.5
"""Of tokenizers that are not there yet; bytes and characters are one each."""

Rows = list[tuple[str, str]]


def prepare(config: ConfigDict, *, dry_run: bool = False) -> Rows:
    """Makes the data ready, and says what there is.

    Args:
        config: `task`, `data` and `model.vocab_size` are used.
        dry_run: only reads, to say what would be done.

    Returns:
        Names and values for a table.

    Raises:
        UserError: anything wrong with the data or the keys that describe it.
    """
    if config.data.source == "tokens" and not config.data.mixture:
        raise UserError("data.source=tokens is read as it is and has nothing to prepare.")
    if dry_run:
        return _plan(config)
    data = read_data(config)
    config = with_word_lists(config, data.vocabularies.files)
    rows = [("data", line) for line in data.summary]
    rows.append(("rows", f"{data.train.num_rows:,} to train on, {data.evaluation.num_rows:,} held out"))
    sources = open_sources(config)
    places = [tokens_place(config, source, data.vocabularies) for source in sources]
    return rows + _cleaned(sources) + [("cache", str(place)) for place in places]


def _plan(config: ConfigDict) -> Rows:
    """What `prepare` would do."""
    files = with_named_files(config, NONE).files
    config = with_word_lists(config, files)
    sources = open_sources(config, dry_run=True)
    vocabularies = existing_vocabularies(config, sources, files)
    are_made = vocabularies.tokenizer and (vocabularies.target_tokenizer or not config.data.target_tokenizer)
    rows: Rows = []
    for source in sources:
        scan = source.scan
        rows.append(
            (
                source.label,
                f"{sum(scan.part_records):,} records in {source.extent}, {quantity(scan.num_characters)} "
                f"characters after cleaning, {quantity(scan.train_characters)} of them to train on",
            )
        )
        place = are_made and tokens_place(config, source, vocabularies)
        if place and is_whole(place):
            rows.append(("", f"is ready: {place}"))
            continue
        workers = num_workers(config, scan.num_characters)
        rows.append(("", f"would be tokenized by {workers or 1} process{'es' if workers > 1 else ''} into {_size(config, scan.num_characters)}"))
    if not are_made:
        names = " and ".join(filter(None, (config.data.tokenizer, config.data.target_tokenizer)))
        rows.append(("tokenizer", f"{names} would be made from the training part"))
    return rows + _cleaned(sources)


def _size(config: ConfigDict, num_characters: int) -> str:
    """Tokens and bytes on disk, as far as they are known before a tokenizer is there."""
    kind, _, size = config.data.tokenizer.partition(":")
    characters_a_token = 1 if kind in ("byte", "char") else USUAL_CHARACTERS_A_TOKEN
    vocab_size = int(size) if size.isascii() and size.isdigit() else 257 if kind == "byte" else 1 << 16
    token_bytes = np.min_scalar_type(vocab_size - 1).itemsize
    tokens = num_characters / characters_a_token
    return f"about {quantity(tokens)} tokens, {memory_size(tokens * token_bytes)}"


def _cleaned(sources: Sequence[Source]) -> Rows:
    """What each step of the cleaning did."""
    return [
        ("cleaning", f"{step['step']}: {step['changed']:,} of {step['seen']:,} records changed, {step['dropped']:,} dropped")
        for source in sources
        for step in source.scan.cleaned
    ]
