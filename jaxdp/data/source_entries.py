"""Sources that `config.data` names: entries of a mixture or the one source, their columns and file locations."""

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.data.reading.sources import registered_source
from jaxdp.errors import UserError
from jaxdp.nearest import nearest
from jaxdp.run_config import DATA_PLACES, DataConfig

_ONE_SOURCE_KEYS = ("target_path", "eval_target_path", "encoding", "delimiter")
"""Keys of a single source; with a mixture they belong in its entries."""

_SPEC_KEYS = ("source", *DATA_PLACES, "name", "split", "eval_split", "errors", "encoding", "delimiter")
_COLUMN_KEYS = ("text_column", "label_column", "source_column", "target_column")


def source_entries(data: DataConfig) -> list[dict[str, Any]]:
    """Returns the entries of the mixture with defaults filled in, or the one source.

    Raises:
        UserError: An entry is not a dict, has an unknown key, or lacks a required key.
    """
    defaults = {key: getattr(data, key) for key in (*_SPEC_KEYS, *_COLUMN_KEYS)}
    if not data.mixture:
        return [defaults | {"weight": None}]
    for key in _ONE_SOURCE_KEYS:
        if (value := getattr(data, key)) is not None:
            raise UserError(
                f"data.{key}={value} describes a single source: unset it, and set it in the entries of data.mixture."
            )
    entries = []
    for number, entry in enumerate(data.mixture):
        where = f"data.mixture[{number}]"
        if not isinstance(entry, Mapping):
            raise UserError(
                f"{where} is {entry!r}: expected a dict such as {{'source': 'text', 'path': 'books', 'weight': 1.0}}."
            )
        for key in entry:
            if key not in (*defaults, "weight"):
                raise UserError(f"{where} has unknown key {key!r}{nearest(key, (*defaults, 'weight'))}")
        if "source" not in entry:
            raise UserError(f"{where} has no 'source': set one in each entry, such as 'text'.")
        if entry["source"] in ("tokens", "hf_stream"):
            raise UserError(
                f"{where} has source {entry['source']!r}, which cannot be mixed: expected a source of text, such as 'text'."
            )
        weight = entry.get("weight")
        if weight is not None and not (isinstance(weight, int | float) and 0 < weight < float("inf")):
            raise UserError(f"{where} has weight {weight!r}: expected a number above 0.")
        own = dict.fromkeys((*DATA_PLACES, "name", "split", "eval_split"))
        entries.append(defaults | own | dict(entry) | {"weight": weight})
    return entries


def source_spec(entry: Mapping[str, Any], fields: Sequence[str]) -> tuple[SourceSpec, dict[str, str]]:
    """Returns the source specification of an entry, and the column of each field.

    Args:
        entry: Entry from `source_entries`.
        fields: Fields that the task reads.
    """
    has_columns = registered_source(entry["source"]).has_columns
    columns = {field: entry[f"{field}_column"] if has_columns else field for field in fields}
    spec = SourceSpec(
        **{key: entry[key] for key in _SPEC_KEYS},
        columns=tuple(column for field, column in columns.items() if field != "label"),
        label_columns=tuple(column for field, column in columns.items() if field == "label"),
    )
    return spec, columns


def source_label(entry: Mapping[str, Any]) -> str:
    """Returns a short name: the last part of the path (of both paths for pairs of files), or else the kind of source."""
    ends = [os.path.basename(os.path.normpath(entry[key])) for key in ("path", "target_path") if entry[key]]
    return " + ".join(ends) or entry["source"]


def absolute_places(entry: Mapping[str, Any]) -> dict[str, str]:
    """Returns the file locations of an entry as absolute paths; URLs and names on the Hub are unchanged.

    Args:
        entry: Keys of `config.data`, or an entry of its mixture.
    """
    places = {}
    for key in (*DATA_PLACES, "test_path"):
        path = os.path.expanduser(entry.get(key) or "")
        on_hub = entry["source"] in ("hf", "hf_stream") and not (os.path.exists(path) or glob.has_magic(path))
        if path:
            places[key] = path if "://" in path or on_hub else os.path.abspath(path)
    return places
