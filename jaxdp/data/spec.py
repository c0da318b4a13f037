"""Specification of a dataset: configuration, and what data preparation must know of a task.

Data is below tasks: it defines these facts, and `jaxdp.tasks.make` provides them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from jaxdp.data.labels import Kind
from jaxdp.data.named_files import NamedFiles, with_word_lists
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.errors import UserError
from jaxdp.run_config import DataConfig


class BoundTask(Protocol):
    """The part of a task with vocabularies that data preparation calls.

    Attributes:
        prepared_with: Plain JSON values that `prepare` depends on besides record, tokenizer and code.
        row_lengths: Tokens of a sequence for each ragged array of an example, eos included; of a cut window
            without the token that it reads beyond.
        start_id: Id that begins a target in packed pairs; of sequence-to-sequence tasks only.
    """

    prepared_with: Mapping[str, Any]
    row_lengths: Mapping[str, int]
    start_id: int

    def prepare(self, record: Mapping[str, Any], tokenizer: Any) -> dict[str, np.ndarray]:
        """Turns a record into an example."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskData:
    """What a task needs of its data.

    Attributes:
        name: Name of the task, as `config.task` has it.
        kind: Class of the task; its code is part of cache keys.
        fields: Fields of a record that `prepare` reads: `text`, `label`, `source`, `target`.
        eos_fields: Arrays of an example that the end-of-sequence token follows in the prepared data.
        packings: Values of `data.packing` that the task can read, its default first.
        special_tokens: Names of special tokens that its tokenizer must have.
        prompt_end: Text after a prompt, before its continuation.
        generates_targets: Whether the model generates targets that are scored.
        label_kind: Kind of the labels; None for tasks without labels.
        label_separator: Separator of several labels of one record.
        bind: Returns the task with vocabularies, as far as they are known.
    """

    name: str
    kind: type
    fields: tuple[str, ...]
    eos_fields: tuple[str, ...]
    packings: tuple[str, ...]
    special_tokens: tuple[str, ...]
    prompt_end: str
    generates_targets: bool
    label_kind: Kind | None
    label_separator: str
    bind: Callable[[Vocabularies], BoundTask]

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Fields that a tokenizer is made from."""
        return tuple(field for field in self.fields if field != "label")

    @property
    def has_labels(self) -> bool:
        """Whether records have labels."""
        return self.label_kind is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Everything that a prepared dataset and its order depend on.

    Attributes:
        data: Group `data` of the configuration.
        task: What the task needs of its data.
        seed: Seed of the run.
        vocab_size: `model.vocab_size`; None: that of the tokenizer.
        global_batch_size: Sequences of one update.
        num_eval_batches: `eval.num_batches`, which a stream keeps in memory.
        num_scored: Largest number of targets to generate and score.
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
        """Whether there are texts and tokenizers, rather than a file of tokens."""
        return self.data.source != "tokens" or bool(self.data.mixture)

    @property
    def is_stream(self) -> bool:
        """Whether the training data is a stream without positions."""
        return self.data.source == "hf_stream" and not self.data.mixture

    def model_vocab_size(self, tokenizer: Tokenizer) -> int:
        """Returns the size of the model's token embedding: `model.vocab_size`, or that of the tokenizer.

        Raises:
            UserError: The model would have too few.
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

