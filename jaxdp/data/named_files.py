"""Word lists and tokenizer files that a configuration names: saved with the run and compared on resume.

Data files are not included: the data fingerprint identifies them.
"""

import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.atomic_files import write_atomically
from jaxdp.data.cleaning.steps import is_list_step, listed_step, read_words
from jaxdp.data.tokenizers.files import read_tokenizer_file
from jaxdp.errors import UserError
from jaxdp.json_files import parse_json, read_regular
from jaxdp.run_config import DataConfig

TOKENIZER_KEYS = ("tokenizer", "target_tokenizer")


@dataclasses.dataclass(frozen=True)
class NamedFiles:
    """Content of the files that a configuration names.

    Attributes:
        words: Sorted words of a word list, by step of `data.cleaning`.
        tokenizers: SHA-256 of a tokenizer file, by value of a key of TOKENIZER_KEYS.
        texts: Content of the tokenizer files that this process has read.
    """

    words: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    tokenizers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        """Returns whether the configuration names any file."""
        return bool(self.words or self.tokenizers)

    def save(self, path: Path) -> None:
        """Writes a JSON file atomically."""
        content = {
            "words": {step: list(words) for step, words in self.words.items()},
            "tokenizers": dict(self.tokenizers),
        }
        write_atomically(path, json.dumps(content, ensure_ascii=False) + "\n")


def load_named_files(path: Path) -> NamedFiles:
    """Reads the file of `NamedFiles.save`; without the file, the result is empty.

    Raises:
        UserError: The file cannot be read or is damaged.
    """
    try:
        content = parse_json(read_regular(path))
        words, tokenizers = content["words"], content["tokenizers"]
        if not all(isinstance(word, str) for listed in words.values() for word in listed) or not all(
            isinstance(digest, str) for digest in tokenizers.values()
        ):
            raise TypeError("words and digests must be strings")
        return NamedFiles(words, tokenizers)
    except FileNotFoundError:
        return NamedFiles()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected the file of a run.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} does not hold the word lists and tokenizer digests of a run ({type(error).__name__}); restore the file "
            "from a copy of the run."
        ) from error


def read_named_files(data: DataConfig, kept: NamedFiles, has_tokenizer: bool) -> NamedFiles:
    """Reads every named file once, so that its digest and everything built from it have the same content.

    Args:
        data: Group `data` of the configuration.
        kept: Files that the run began with; they are not read again.
        has_tokenizer: Whether the run has its tokenizers, so that no tokenizer file is read.

    Raises:
        UserError: A file cannot be read.
    """
    steps = [step for step in data.cleaning if is_list_step(step)]
    words = {step: kept.words[step] if step in kept.words else sorted(read_words(step)) for step in steps}
    names = (
        ()
        if has_tokenizer
        else [name for key in TOKENIZER_KEYS if (name := getattr(data, key)) and name.endswith(".json")]
    )
    texts = {name: read_tokenizer_file(name) for name in names}
    return NamedFiles(words, {**kept.tokenizers, **{name: _digest(text) for name, text in texts.items()}}, texts)


def with_word_lists(data: DataConfig, files: NamedFiles) -> DataConfig:
    """Returns a copy of the configuration with the words in place of the names of their files."""
    if not files.words:
        return data
    return dataclasses.replace(
        data, cleaning=tuple(listed_step(files.words[step]) if step in files.words else step for step in data.cleaning)
    )


def check_named_files(data: DataConfig, kept: NamedFiles, workdir: Path) -> None:
    """Checks that named files have not changed since the run began; a missing file is not needed.

    Raises:
        UserError: The content of a file has changed.
    """
    present: dict[str, Any] = {}
    for step in data.cleaning:
        if step in kept.words and glob.glob(os.path.expanduser(step.partition(":")[2])):
            present[f"data.cleaning: {step}"] = (kept.words[step], sorted(read_words(step)))
    for key in TOKENIZER_KEYS:
        name = getattr(data, key)
        if name in kept.tokenizers and Path(name).expanduser().is_file():
            present[f"data.{key}: {name}"] = (kept.tokenizers[name], _digest(read_tokenizer_file(name)))
    changed = [name for name, (before, now) in present.items() if list(before) != list(now)]
    if changed:
        raise UserError(
            f"--workdir={workdir} holds a run with other content of its named files: {'; '.join(changed)} has changed since the "
            "run began. Restore the earlier content, move the file away (the run has a copy), or use another --workdir."
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
