"""Tokenizers, labels and word lists of a run, and their files in the work directory."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from jaxdp.data.labels import Labels, load_labels
from jaxdp.data.named_files import NamedFiles, load_named_files
from jaxdp.data.tokenizers import Tokenizer, load_tokenizer
from jaxdp.workdir import WorkDir


@dataclass(frozen=True)
class Vocabularies:
    """Made from the training data, or those that the run began with.

    Attributes:
        tokenizer: of what is read; None for ready-made tokens, and before it is made.
        target_tokenizer: of what is written, where `data.target_tokenizer` sets one
            apart; None: `tokenizer` serves both.
        labels: of labelled data.
        files: content of the files that the configuration names.
    """

    tokenizer: Tokenizer | None = None
    target_tokenizer: Tokenizer | None = None
    labels: Labels | None = None
    files: NamedFiles = dataclasses.field(default_factory=NamedFiles)

    @property
    def both_tokenizers(self) -> Tokenizer | tuple[Tokenizer, Tokenizer]:
        """As `Task.prepare` takes them."""
        return (self.tokenizer, self.target_tokenizer) if self.target_tokenizer else self.tokenizer

    @property
    def written(self) -> Tokenizer | None:
        """The tokenizer of what the model writes."""
        return self.target_tokenizer or self.tokenizer

    def tokenizer_of(self, array: str) -> Tokenizer:
        """The one that an array of an example was made with: `target_tokens` by that of the target."""
        return self.written if array.startswith("target") else self.tokenizer


NONE = Vocabularies()
"""Before anything is read."""

_FILES = ("tokenizer", "target_tokenizer", "labels")


def load_vocabularies(directory: WorkDir) -> Vocabularies:
    """Those that the run of a work directory began with, where it has them."""
    load = {"tokenizer": load_tokenizer, "target_tokenizer": load_tokenizer, "labels": load_labels}
    places = {name: getattr(directory, name) for name in _FILES}
    found = {name: load[name](path) for name, path in places.items() if os.path.lexists(path)}
    return Vocabularies(**found, files=load_named_files(directory.named_files))


def save_vocabularies(vocabularies: Vocabularies, directory: WorkDir, *, replace: bool) -> None:
    """Writes `tokenizer.json`, `target_tokenizer.json`, `labels.json` and `named_files.json`, as far as there are any.

    Args:
        vocabularies: Of the run.
        directory: Its work directory.
        replace: False leaves files that are there as they are: those of a run that resumes, whose
            checkpoints have recorded their SHA-256.
    """
    for name, path in vocabulary_files(vocabularies, directory).items():
        if replace or not path.exists():
            getattr(vocabularies, name).save(path)


def vocabulary_files(vocabularies: Vocabularies, directory: WorkDir) -> dict[str, Path]:
    """Returns the file of each vocabulary that a run has, by attribute."""
    files = {name: getattr(directory, name) for name in _FILES if getattr(vocabularies, name) is not None}
    return files | ({"files": directory.named_files} if vocabularies.files else {})
