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
    """One source of a mixture: name, number of training sequences, and weight if the configuration sets one."""

    name: str
    num_rows: int
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Validation pairs to generate and score.

    Attributes:
        sources: Token ids of each source, [num_tokens] int32; a source that is not cut ends with eos.
        references: Cleaned text of each target; decoding its tokens may not restore it.
        num_cut: Number of sources that are cut because they are longer than the model reads.
    """

    sources: tuple[np.ndarray, ...]
    references: tuple[str, ...]
    num_cut: int


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Both splits as sequences, with their metadata.

    Attributes:
        vocabularies: Tokenizers and labels; empty for token files.
        vocab_size: Size of the model's token embedding; of the encoder's if source and target differ.
        train: Training sequences of all sources, one source after the other; None for a stream.
        evaluation: Validation sequences.
        groups: Sources; one without a mixture.
        fingerprint: Fingerprint of the data, as a checkpoint records it.
        num_characters: Number of characters after cleaning; 0 for token files and streams.
        summary: Readable lines, one for each source and one for each finding.
        stream: Training records of a stream; None for indexed data.
        columns: Columns of the stream by field of the task.
        cleaning: Identity of each step of `data.cleaning`.
        pairs: Validation pairs to generate and score; None if the task scores none.
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
        digests = {
            name: hashlib.sha256(each.to_json().encode()).hexdigest()[:12] for name, each in tokenizers.items() if each
        }
        labels = found.labels and hashlib.sha256(repr(found.labels).encode()).hexdigest()[:12]
        return {"data fingerprint": self.fingerprint, "cleaning": list(self.cleaning), **digests, "labels": labels}
