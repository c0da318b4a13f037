"""Dataset of a run: its specification, what data preparation needs of a task, and the prepared splits.

`jaxdp.data` is below `jaxdp.tasks`: it defines the interface, and `jaxdp.tasks.make` provides the values.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from jaxdp.data.labels import Kind
from jaxdp.data.named_files import NamedFiles, with_word_lists
from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.reading.record_stream import RecordStream
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.errors import UserError
from jaxdp.run_config import DataConfig


class BoundTask(Protocol):
    """Interface of a task with vocabularies, as data preparation uses it.

    Attributes:
        prepared_with: JSON values that `prepare` depends on in addition to record, tokenizer and code.
        row_lengths: Maximum number of tokens of each ragged array in a sequence, eos included; a window of
            `data.packing=cut` reads one more.
        start_id: Id of the token that begins a target in packed pairs; None: the task packs no pairs.
    """

    prepared_with: Mapping[str, Any]
    row_lengths: Mapping[str, int]
    start_id: int | None

    def prepare(self, record: Mapping[str, Any], tokenizer: Any) -> dict[str, np.ndarray]:
        """Converts a record to an example."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskData:
    """Requirements of a task on its data.

    Attributes:
        name: Name of the task, as `config.task` has it.
        kind: Class of the task; its code is part of cache keys.
        fields: Fields of a record that `prepare` reads: `text`, `label`, `source`, `target`.
        eos_fields: Arrays of an example that the end-of-sequence token follows in the prepared data.
        packings: Values of `data.packing` that the task can read, its default first.
        special_tokens: Names of special tokens that its tokenizer must have.
        prompt_end: Text after a prompt, before its continuation.
        generated_field: Array of an example that the model generates, with `data.target_tokenizer` as its tokenizer; empty
            if none.
        label_kind: Kind of the labels; None for tasks without labels.
        label_separator: Separator of several labels of one record.
        bind: Function from vocabularies, as far as they are known, to the task with them.
    """

    name: str
    kind: type
    fields: tuple[str, ...]
    eos_fields: tuple[str, ...]
    packings: tuple[str, ...]
    special_tokens: tuple[str, ...]
    prompt_end: str
    generated_field: str
    label_kind: Kind | None
    label_separator: str
    bind: Callable[[Vocabularies], BoundTask]

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Fields that the tokenizers read."""
        return tuple(field for field in self.fields if field != "label")

    @property
    def generates_targets(self) -> bool:
        """True if the model generates targets that are scored."""
        return bool(self.generated_field)

    @property
    def has_labels(self) -> bool:
        """True if records have labels."""
        return self.label_kind is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Everything that a prepared dataset and its order depend on.

    Attributes:
        data: Group `data` of the configuration.
        task: What the task needs of its data.
        seed: Seed of the run.
        vocab_size: `model.vocab_size`; None: the tokenizer's.
        global_batch_size: Sequences of one update.
        num_eval_batches: `eval.num_batches`: validation batches that a stream keeps in memory.
        num_scored: Maximum number of targets to generate and score.
        counts_epochs: Whether the length of the run is given in epochs.
    """

    data: DataConfig
    task: TaskData
    seed: int
    vocab_size: int | None
    global_batch_size: int
    num_eval_batches: int
    num_scored: int
    counts_epochs: bool

    @property
    def packing(self) -> str:
        """`data.packing`, or the default of the task."""
        return self.data.packing or self.task.packings[0]

    @property
    def has_texts(self) -> bool:
        """True if the data is text for a tokenizer rather than a token file."""
        return self.data.source != "tokens" or bool(self.data.mixture)

    @property
    def is_stream(self) -> bool:
        """True if the training data is a stream, which has no random access."""
        return self.data.source == "hf_stream" and not self.data.mixture

    def model_vocab_size(self, tokenizer: Tokenizer) -> int:
        """Returns the size of the model's token embedding: `model.vocab_size`, or that of the tokenizer.

        Raises:
            UserError: `model.vocab_size` is smaller than the tokenizer's.
        """
        vocab_size = self.vocab_size or tokenizer.vocab_size
        if vocab_size < tokenizer.vocab_size:
            raise UserError(
                f"model.vocab_size={vocab_size} is smaller than the tokenizer's vocabulary of "
                f"{tokenizer.vocab_size}; leave it unset or raise it."
            )
        return vocab_size

    def with_word_lists(self, files: NamedFiles) -> "DatasetSpec":
        """Returns a copy with words in place of the names of their files."""
        return dataclasses.replace(self, data=with_word_lists(self.data, files))


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
    def train_sequences(self) -> SequenceDataset:
        """Training sequences of indexed data.

        Raises:
            ValueError: The dataset is a stream or a validation split.
        """
        if self.train is None:
            raise ValueError("this dataset has no training sequences: it is a stream or a validation split")
        return self.train

    @property
    def pairs_to_score(self) -> Pairs:
        """Validation pairs of a task that scores generated targets; raises ValueError for another task."""
        if self.pairs is None:
            raise ValueError("this dataset has no pairs to score: its task generates no targets")
        return self.pairs

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
