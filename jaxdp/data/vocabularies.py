"""Vocabularies of a run: tokenizers, labels and word lists, and their files in the work directory."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from jaxdp.data.labels import Labels, load_labels
from jaxdp.data.named_files import NamedFiles, load_named_files
from jaxdp.data.tokenizers import Tokenizer, load_tokenizer
from jaxdp.json_files import read_json
from jaxdp.workdir import WorkDir


@dataclass(frozen=True)
class Vocabularies:
    """Tokenizers and labels, built from the training data or loaded from a run.

    Attributes:
        tokenizer: Tokenizer of the input; None for token files, and before it is built.
        target_tokenizer: Tokenizer of the target if `data.target_tokenizer` is set; None: `tokenizer` serves both.
        labels: Label vocabulary; None for unlabelled data.
        files: Content of the files that the configuration names.
        other_eos_ids: Ids that end a generated text in addition to that of the tokenizer, from the generation_config.json of an import.
    """

    tokenizer: Tokenizer | None = None
    target_tokenizer: Tokenizer | None = None
    labels: Labels | None = None
    files: NamedFiles = dataclasses.field(default_factory=NamedFiles)
    other_eos_ids: tuple[int, ...] = ()

    @property
    def input_tokenizer(self) -> Tokenizer:
        """Tokenizer of the input, of data that is known to have one.

        Raises:
            ValueError: The data is a token file, or the tokenizer is not built yet.
        """
        if self.tokenizer is None:
            raise ValueError("these vocabularies have no tokenizer: they are of a token file, or not built yet")
        return self.tokenizer

    @property
    def output_tokenizer(self) -> Tokenizer:
        """Tokenizer of the text that the model generates; raises as `input_tokenizer`."""
        return self.target_tokenizer or self.input_tokenizer

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that each end a generated text; the first is that of the tokenizer. Raises as `input_tokenizer`."""
        return tuple(dict.fromkeys((self.output_tokenizer.eos_id, *self.other_eos_ids)))

    @property
    def both_tokenizers(self) -> Tokenizer | tuple[Tokenizer, Tokenizer]:
        """Tokenizer argument of `Task.prepare`: one, or a pair if the target has its own."""
        return (self.input_tokenizer, self.target_tokenizer) if self.target_tokenizer else self.input_tokenizer


NONE = Vocabularies()
"""Empty vocabularies, before data is read."""

_FILES = ("tokenizer", "target_tokenizer", "labels")


def load_vocabularies(directory: WorkDir) -> Vocabularies:
    """Loads the vocabularies in a work directory, as far as it has any."""
    load = {"tokenizer": load_tokenizer, "target_tokenizer": load_tokenizer, "labels": load_labels}
    places = {name: getattr(directory, name) for name in _FILES}
    found = {name: load[name](path) for name, path in places.items() if os.path.lexists(path)}
    return Vocabularies(
        **found, files=load_named_files(directory.named_files), other_eos_ids=read_eos_ids(directory.hugging_face)
    )


def read_eos_ids(folder: Path) -> tuple[int, ...]:
    """Returns `eos_token_id` of the generation_config.json of a Hugging Face folder, or of its config.json; (): neither has it."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = read_json(path, f"the {name} of a Hugging Face model").get("eos_token_id") if path.is_file() else None
        if value is not None:
            ids = value if isinstance(value, list) else [value]
            return tuple(number for number in ids if isinstance(number, int) and number >= 0)
    return ()


def save_vocabularies(vocabularies: Vocabularies, directory: WorkDir, *, replace: bool) -> None:
    """Writes `tokenizer.json`, `target_tokenizer.json`, `labels.json` and `named_files.json`, as far as there are any.

    Args:
        vocabularies: Vocabularies of the run.
        directory: Work directory of the run.
        replace: Whether to overwrite existing files; False for a run that resumes, since its checkpoints record
            their SHA-256.
    """
    for name, path in vocabulary_files(vocabularies, directory).items():
        if replace or not path.exists():
            getattr(vocabularies, name).save(path)


def vocabulary_files(vocabularies: Vocabularies, directory: WorkDir) -> dict[str, Path]:
    """Returns the file of each vocabulary that a run has, by attribute."""
    files = {name: getattr(directory, name) for name in _FILES if getattr(vocabularies, name) is not None}
    return files | ({"files": directory.named_files} if vocabularies.files else {})
