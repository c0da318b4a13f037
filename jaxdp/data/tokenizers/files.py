"""Tokenizer files: those of jaxdp, and pretrained ones from a path or from the Hugging Face Hub."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from jaxdp.data.tokenizers.base import END_OF_TEXT, Tokenizer
from jaxdp.data.tokenizers.characters import without_merges
from jaxdp.data.tokenizers.library import END_OF_TEXT_NAMES, LibraryTokenizer
from jaxdp.data.tokenizers.numbering import fill_gaps
from jaxdp.data.tokenizers.vetting import check_by_trial, panics_as_errors
from jaxdp.errors import UserError
from jaxdp.json_files import parse_json, read_regular
from jaxdp.quoting import quoted

HUB_SECS = 10
"""Timeout in seconds of the request that checks if the Hub is reachable."""

RANDOM = ("dropout", "alpha", "nbest_size")
"""Keys of a model that make it encode a text differently each time."""


def load_tokenizer(path: str | os.PathLike[str], special_tokens: Iterable[str] = ()) -> Tokenizer:
    """Loads a tokenizer.json, written by `Tokenizer.save` or any other program.

    Settings of the file for truncation, padding, tokens around a text and random merges are removed: a text is encoded whole,
    unchanged and deterministically. If the file names no end of text, `<|endoftext|>` is added as a new id.

    Args:
        path: Path of the file.
        special_tokens: Names that are added as new ids if the file lacks them.

    Raises:
        UserError: The file does not exist or is not a tokenizer.json.
    """
    return parse_tokenizer(read_tokenizer_file(path), path, special_tokens)


def read_tokenizer_file(path: str | os.PathLike[str]) -> str:
    """Reads the text of a tokenizer.json.

    Raises:
        UserError: No such file, or not UTF-8.
    """
    try:
        return read_regular(Path(path).expanduser()).decode("utf-8")
    except OSError as error:
        raise UserError(
            f"The tokenizer {path} cannot be read ({error.strerror}): expected a tokenizer.json there."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a tokenizer.json: it is not UTF-8.") from error


def parse_tokenizer(text: str, path: str | os.PathLike[str], special_tokens: Iterable[str] = ()) -> Tokenizer:
    """Builds the tokenizer from a text that `read_tokenizer_file` read from a path, see `load_tokenizer`.

    Raises:
        UserError: It is not a tokenizer.json.
    """
    try:
        content = parse_json(text)
        check_by_trial(text, content, str(path))
        with panics_as_errors(f"read {path}"):
            theirs = tokenizers.Tokenizer.from_str(text)
            if ours := without_merges(theirs, special_tokens):
                return ours
            num_filled = fill_gaps(content, str(path))
            theirs = tokenizers.Tokenizer.from_str(json.dumps(content)) if num_filled else theirs
            return _adopt(theirs, content, str(path), special_tokens, num_filled)
    except UserError:
        raise
    except Exception as error:  # the library has no class of its own
        raise UserError(f"{path} is not a tokenizer.json: {error}.") from error


def download_tokenizer(name: str, special_tokens: Iterable[str] = ()) -> Tokenizer:
    """Loads the tokenizer.json of a model on the Hugging Face Hub, or of its copy in the local cache.

    A cached copy is used without a request. Otherwise one request checks first that the Hub is reachable, since the client
    alone would try for half a minute.

    Args:
        name: `gpt2` or `organisation/model`.
        special_tokens: See `load_tokenizer`.

    Raises:
        UserError: The model does not exist or has no tokenizer.json, or the Hub cannot be reached.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        path = hub.hf_hub_download(name, "tokenizer.json", local_files_only=True)
    except errors.HFValidationError as error:
        raise UserError(
            f"data.tokenizer=hf:{name} is no name of a model on the Hub: expected hf:NAME or "
            "hf:ORGANISATION/NAME; a tokenizer.json on this machine is given by its path alone."
        ) from error
    except errors.LocalEntryNotFoundError:
        path = _download(name)
    return load_tokenizer(path, special_tokens)


def _download(name: str) -> str:
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "tokenizer.json"), timeout=HUB_SECS)
        return hub.hf_hub_download(name, "tokenizer.json")
    except errors.HfHubHTTPError as error:
        raise UserError(
            f"data.tokenizer=hf:{name}: the Hub has no tokenizer.json of that model for you "
            f"({type(error).__name__}): correct the name, log in if it is private or gated, or give the "
            "path of a tokenizer.json."
        ) from error
    except Exception as error:  # which class depends on the HTTP library of huggingface_hub
        raise UserError(
            f"data.tokenizer=hf:{name} is not in the local cache, and the Hugging Face Hub cannot be "
            f"reached ({type(error).__name__}: {error}): copy that model's tokenizer.json here and set "
            "data.tokenizer=PATH/tokenizer.json."
        ) from error


def _adopt(
    theirs: tokenizers.Tokenizer, filled: dict[str, Any], origin: str, special_tokens: Iterable[str], num_filled: int
) -> LibraryTokenizer:
    """Adds an end of text to a pretrained tokenizer, and removes everything that changes a text."""
    _check_ids(theirs, filled, origin)
    theirs.no_truncation()
    theirs.no_padding()
    before = _special_names(theirs)
    if not before & set(END_OF_TEXT_NAMES):
        theirs.add_special_tokens([END_OF_TEXT])
    theirs.add_special_tokens([name for name in special_tokens if name not in before])
    content = json.loads(theirs.to_str())
    content["model"].update({key: None for key in RANDOM if content["model"].get(key) is not None})
    canonical = tokenizers.Tokenizer.from_str(json.dumps(content)).to_str(pretty=True)
    tokenizer = LibraryTokenizer(canonical)
    remarks = [f"{name} was added as id {i}" for name, i in tokenizer.special_ids.items() if name not in before]
    if num_filled:
        remarks.append(f"{num_filled:,} ids of {origin} have no token and are filled with unused ones")
    if spelled := tokenizer.spelled_specials():
        remarks.append(f"a text that has the characters {', '.join(spelled)} is read as special tokens")
    tokenizer.remarks = tuple(remarks)
    return tokenizer


def _special_names(theirs: tokenizers.Tokenizer) -> set[str]:
    return {token.content for token in theirs.get_added_tokens_decoder().values() if token.special}


def _check_ids(theirs: tokenizers.Tokenizer, content: dict[str, Any], origin: str) -> None:
    """Checks that the library numbers the added tokens like the file."""
    for token in content.get("added_tokens", ()):
        found = theirs.token_to_id(token["content"])
        if found != token["id"]:
            raise UserError(
                f"{origin} gives the token {quoted(token['content'])} the id {token['id']}, but the library "
                f"numbers it {found}: expected an id of its own for every token; correct the file."
            )
