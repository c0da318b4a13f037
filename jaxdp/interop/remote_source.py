"""Remote safetensors, single or sharded, as a parameter source: HTTP range requests, and fsspec for other URLs."""

import functools
import hashlib
import http.client
import importlib.util
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdp.errors import DamageFound, UserError
from jaxdp.interop.safetensors_source import CONFIG, INDEX, SINGLE
from jaxdp.interop.source import ArraySpec, ParameterSource
from jaxdp.json_files import parse_json
from jaxdp.safetensors_file import PIECE_BYTES, Entry, parse_header
from jaxdp.storage.location import is_remote

HEAD_BYTES = 2**16
"""Bytes of the first request of a file, which has the whole header of most models."""

MAX_JSON_BYTES = 2**26
"""Largest JSON file that is read."""

TIMEOUT_SECS = 30.0
"""Time limit of a request."""

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")


class RemoteFile(NamedTuple):
    """File that is read in ranges.

    Attributes:
        url: Its URL.
        size: Size in bytes.
        head: Its first bytes.
    """

    url: str
    size: int
    head: bytes

    def read(self, start: int, count: int) -> bytes:
        """Reads a range.

        Raises:
            UserError: The server does not answer.
            DamageFound: The range is cut short.
        """
        if start + count <= len(self.head):
            return self.head[start : start + count]
        content, _ = _range_reader(self.url)(self.url, start, count)
        if len(content) != count:
            raise DamageFound(f"{self.url} ends before an array does; upload the file again.")
        return content


def is_url(text: str) -> bool:
    """Returns True for a URL, e.g. `https://`, `gs://` or `s3://`."""
    return _SCHEME.match(text) is not None


def open_remote(url: str) -> "RemoteSource":
    """Opens a .safetensors file or a Hugging Face folder by URL.

    Raises:
        UserError: Nothing of these is there, or it cannot be read in ranges.
        DamageFound: A shard is missing.
    """
    path, question, query = url.partition("?")
    if path.endswith(".safetensors"):
        file = open_file(url)
        if file is None:
            raise UserError(f"PATH={url} does not exist; check the URL.")
        return RemoteSource(url, [file])

    def place(name: str) -> str:
        return f"{path.rstrip('/')}/{name}{question}{query}"

    config, index = read_remote_json(place(CONFIG)), read_remote_json(place(INDEX))
    names = [SINGLE] if index is None else sorted(set(index.get("weight_map", {}).values()))
    files = [open_file(place(name)) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if index is None and missing:
        raise UserError(
            f"PATH={url} has neither {SINGLE} nor {INDEX}; of URLs a .safetensors file, a Hugging Face folder, "
            "an Orbax item and a single checkpoint of jaxdp are read, and whole runs from a local or mounted path."
        )
    if missing:
        raise DamageFound(f"{url} lacks {len(missing)} of its {len(names)} shards: {', '.join(missing[:3])}.")
    return RemoteSource(url, [file for file in files if file is not None], config)


class RemoteSource(ParameterSource):
    """Arrays of remote safetensors files; only headers are read until arrays are asked for."""

    def __init__(self, url: str, files: list[RemoteFile], config: Mapping[str, Any] | None = None):
        """Creates the source.

        Args:
            url: URL that the user named.
            files: The files.
            config: Content of config.json; None: there is none.
        """
        self.path, self.config, self._url, self._files = Path(url), config, url, files
        self.kind = "remote safetensors" if config is None else "remote Hugging Face folder"

    @property
    def place(self) -> str:
        """See `ParameterSource.place`."""
        return self._url

    @functools.cached_property
    def _entries(self) -> Mapping[str, tuple[RemoteFile, Entry]]:
        entries = {}
        for file in self._files:
            try:
                header = parse_header(file.size, file.read)
            except ValueError as error:
                raise DamageFound(f"{file.url} is not a whole safetensors file: {error}; upload it again.") from error
            entries |= {name: (file, entry) for name, entry in header.items()}
        return entries

    @property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """See `ParameterSource.arrays`."""
        return {name: ArraySpec(entry.dtype, entry.shape) for name, (_, entry) in self._entries.items()}

    def read(self, name: str) -> np.ndarray:
        """Reads an array; see `ParameterSource.read`."""
        spec = self.arrays[name]
        return np.concatenate([np.empty(0, spec.dtype), *self.pieces(name)]).reshape(spec.shape)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads an array in pieces, one request each; see `ParameterSource.pieces`."""
        file, entry = self._entries[name]
        for start in range(0, entry.num_bytes, PIECE_BYTES):
            count = min(PIECE_BYTES, entry.num_bytes - start)
            yield np.frombuffer(file.read(entry.offset + start, count), entry.dtype)

    def identity(self) -> str:
        """Computes SHA-256 of URLs, sizes and headers."""
        files = [[file.url, file.size, hashlib.sha256(file.head).hexdigest()] for file in self._files]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()

    def describe(self) -> str:
        """Returns the URL and the number of files."""
        return f"{self._url} ({len(self._files)} safetensors file{'s' if len(self._files) > 1 else ''})"


def open_file(url: str) -> RemoteFile | None:
    """Reads the beginning of a file; None: there is no such file."""
    try:
        head, size = _range_reader(url)(url, 0, HEAD_BYTES)
    except FileNotFoundError:
        return None
    return RemoteFile(url, size, head)


def read_remote_json(url: str) -> Mapping[str, Any] | None:
    """Reads a JSON object; None: there is no such file."""
    file = open_file(url)
    if file is None:
        return None
    if file.size > MAX_JSON_BYTES:
        raise UserError(f"{url} has {file.size:,} bytes, which no such file has; check the URL.")
    try:
        value = parse_json(file.read(0, file.size))
    except ValueError as error:
        raise UserError(f"{url} is not JSON ({error}); upload it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{url} holds no JSON object; upload it again.")
    return value


def _range_reader(url: str) -> Callable[[str, int, int], tuple[bytes, int]]:
    """Returns the function that reads a range and the size of the file, by the scheme of a URL."""
    match = _SCHEME.match(url)
    return _read_http if match and match["scheme"].lower() in ("http", "https") else _read_fsspec


def _read_http(url: str, start: int, count: int) -> tuple[bytes, int]:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-{start + count - 1}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECS) as answer:
            total = re.fullmatch(r"bytes [0-9]+-[0-9]+/([0-9]+)", answer.headers.get("Content-Range", ""))
            if answer.status == 206 and total:
                return answer.read(count), int(total[1])
            size = answer.headers.get("Content-Length")
            if start == 0 and size is not None and int(size) <= count:  # a small file needs no ranges
                return answer.read(count), int(size)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(url) from error
        raise UserError(
            f"{url} cannot be read (HTTP {error.code} {error.reason}); check the URL and your access."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"{url} cannot be reached ({error}); check the URL and the network.") from error
    raise UserError(f"{url}: the server does not support range requests; download the file, and give its path.")


def _read_fsspec(url: str, start: int, count: int) -> tuple[bytes, int]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        size = system.size(path)
        if size is None:
            raise FileNotFoundError(url)
        return system.cat_file(path, start, min(start + count, size)), size
    except FileNotFoundError:
        raise
    except (ImportError, ValueError) as error:
        run = ""
        if is_remote(url):
            run = " A run in object storage needs `pip install 'jaxdp[storage]'`."
            if importlib.util.find_spec("obstore"):  # `is_remote_run` has looked there
                run = " No run is there; check the URL."
        raise UserError(
            f"PATH={url} cannot be opened by fsspec ({error}); install the package, or download the files.{run}"
        ) from error
    except OSError as error:
        raise UserError(f"{url} cannot be read ({error}); check the URL and your access.") from error
