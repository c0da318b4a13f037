"""Arrays of one safetensors file or of several shards, as a parameter source."""

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.errors import DamageFound, UserError
from jaxdp.interop.source import ArraySpec, ParameterSource
from jaxdp.json_files import read_json
from jaxdp.safetensors_file import Entry, read_array, read_header, read_pieces

INDEX = "model.safetensors.index.json"
"""File of a Hugging Face folder that names the shard of each array."""

SINGLE = "model.safetensors"
"""File of a Hugging Face folder whose arrays are not divided."""

CONFIG = "config.json"
"""File of a Hugging Face folder that describes its model."""

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<total>\d{5})\.safetensors")


class SafetensorsSource(ParameterSource):
    """Arrays of safetensors files; no name occurs in two of them."""

    def __init__(self, path: Path, files: Sequence[Path], tokenizer: Path | None = None):
        """Opens files; their headers are read when they are first needed.

        Args:
            path: File or folder that the user named.
            files: The files.
            tokenizer: Path of the tokenizer.json; None: there is none.
        """
        self.path, self.files, self.tokenizer = path, tuple(files), tokenizer
        self.kind = "Hugging Face folder" if (path / CONFIG).is_file() else "safetensors"

    @functools.cached_property
    def config(self) -> Mapping[str, Any] | None:  # type: ignore[override]
        """Content of config.json."""
        path = self.path / CONFIG
        return read_json(path, "the config.json of a Hugging Face model") if path.is_file() else None

    @functools.cached_property
    def _entries(self) -> Mapping[str, tuple[Path, Entry]]:
        entries: dict[str, tuple[Path, Entry]] = {}
        for file in self.files:
            for name, entry in _header(file).items():
                if name in entries:
                    raise DamageFound(
                        f"{name} is in {entries[name][0]} and in {file}; delete the file that is left over."
                    )
                entries[name] = file, entry
        return entries

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        return {name: ArraySpec(entry.dtype, entry.shape) for name, (_, entry) in self._entries.items()}

    def read(self, name: str) -> np.ndarray:
        """Reads an array; see `ParameterSource.read`."""
        file, entry = self._entries[name]
        try:
            return read_array(file, entry)
        except OSError as error:
            raise DamageFound(f"{name} cannot be read from {file} ({error}); download the file again.") from error

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads an array in pieces; see `ParameterSource.pieces`."""
        file, entry = self._entries[name]
        try:
            yield from read_pieces(file, entry)
        except OSError as error:
            raise DamageFound(f"{name} cannot be read from {file} ({error}); download the file again.") from error

    def identity(self) -> str:
        """Computes SHA-256 of the files' contents."""
        digest = hashlib.sha256()
        for file in sorted(self.files):
            with open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()

    def describe(self) -> str:
        """Returns the path and the number of files."""
        return f"{self.path} ({len(self.files)} safetensors file{'s' if len(self.files) > 1 else ''})"


def folder_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a Hugging Face folder: those of its index, `model.safetensors`, or all; may be empty.

    Raises:
        UserError: The index is not understood.
        DamageFound: A shard is missing.
    """
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX, f"the {INDEX} of a Hugging Face folder; download it again")
        names = index.get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f'{folder / INDEX} has no "weight_map" from arrays to files; download it again.')
        return _present(folder, sorted(set(names.values())))
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    found = sorted(folder.glob("*.safetensors"))
    shards = [match for file in found if (match := _SHARD.fullmatch(file.name))]
    if shards and len(shards) == len(found):  # an index that was not copied
        total = shards[0]["total"]
        return _present(
            folder, [f"{shards[0]['stem']}-{number:05}-of-{total}.safetensors" for number in range(1, int(total) + 1)]
        )
    return found


def _present(folder: Path, names: Sequence[str]) -> list[Path]:
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise DamageFound(
            f"{folder} lacks {len(missing)} of its {len(names)} shards: {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}; download them again."
        )
    return [folder / name for name in names]


def _header(file: Path) -> Mapping[str, Entry]:
    try:
        return read_header(file)
    except (ValueError, OSError) as error:
        raise DamageFound(f"{file} is not a whole safetensors file: {error}; download it again.") from error
