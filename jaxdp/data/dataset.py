"""Prepared dataset of a run: training and validation split, and their metadata."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.reading.record_stream import RecordStream
from jaxdp.data.vocabularies import Vocabularies


@dataclasses.dataclass(frozen=True)
class Group:
    """One source of a mixture, as rows: its name, how many, and the weight that was asked for."""

    name: str
    num_rows: int
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Texts that a model shall write, and what is expected.

    Attributes:
        sources: token ids of each, end of text included where the source was not cut.
        references: the targets as they stand in the data, cleaned: a tokenizer may not give them back.
        num_cut: sources that are longer than what the model reads, and are cut.
    """

    sources: tuple[np.ndarray, ...]
    references: tuple[str, ...]
    num_cut: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Both splits as rows.

    Attributes:
        vocabularies: tokenizers and labels; empty for ready-made tokens.
        vocab_size: rows of the model's token embedding (of what it reads).
        train: rows to train on, of all sources one after the other; None for a stream.
        evaluation: the held-out rows.
        groups: the sources; one where there is no mixture.
        fingerprint: of the data, as a checkpoint records it.
        num_characters: of text that cleaning left; 0 for ready-made tokens.
        summary: for a person, a line a source.
        stream: what is trained on instead of rows.
        columns: of the stream: name that the task knows -> column.
        cleaning: identity of each step of `data.cleaning`.
        pairs: held-out texts to be written and scored; None where the task scores none.
    """

    vocabularies: Vocabularies
    vocab_size: int
    train: SequenceDataset | None
    evaluation: SequenceDataset
    groups: tuple[Group, ...]
    fingerprint: str
    num_characters: int
    summary: tuple[str, ...]
    stream: RecordStream | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pairs: Pairs | None = None
    cleaning: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """Returns what all processes must have in common, in addition to the configuration, as plain JSON values."""
        found = self.vocabularies
        tokenizers = {"tokenizer": found.tokenizer, "target tokenizer": found.target_tokenizer}
        digests = {name: hashlib.sha256(each.to_json().encode()).hexdigest()[:12] for name, each in tokenizers.items() if each}
        labels = found.labels and hashlib.sha256(repr(found.labels).encode()).hexdigest()[:12]
        return {"data fingerprint": self.fingerprint, "cleaning": list(self.cleaning), **digests, "labels": labels}
