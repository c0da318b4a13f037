"""Sources that `config.data` names: their entries, columns and file locations, and their scan into records and splits."""

import dataclasses
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.arguments import check_caller
from jaxdp.data.cache_keys import scan_entry
from jaxdp.data.dataset import DatasetSpec
from jaxdp.data.labels import LABELS_FORMAT, record_classes
from jaxdp.data.preparing.cache import cached, is_whole
from jaxdp.data.preparing.scan import Scan, load_scan, scan_parts
from jaxdp.data.preparing.selection import SELECTIONS, Selection
from jaxdp.data.reading.records import Columns, Part
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.data.reading.sources import open_evaluation, open_source, registered_source
from jaxdp.errors import UserError
from jaxdp.nearest import nearest
from jaxdp.report.terminal import print_status
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


@dataclasses.dataclass(frozen=True)
class Source:
    """One entry of the mixture, or the only source, opened and scanned; `scan_entry` is the cache path of the scan."""

    label: str
    weight: float | None
    spec: SourceSpec
    columns: dict[str, str]
    train: list[Part]
    evaluation: list[Part] | None
    scan: Scan
    scan_entry: Path

    @property
    def extent(self) -> str:
        """Size in words, e.g. `3 files`."""
        number, is_paired = len(self.scan.part_records), self.spec.target_path is not None
        one, several = ("pair of files", "pairs of files") if is_paired else ("file", "files")
        return f"{number} {one if number == 1 else several}"


def open_sources(spec: DatasetSpec, *, dry_run: bool = False) -> list[Source]:
    """Opens and scans every source; sources of the same name get a number.

    Args:
        spec: Specification of the dataset.
        dry_run: Whether a new scan is not saved in the cache.

    Raises:
        UserError: A source cannot be read; or this is a worker process, which would wait for its parent forever.
    """
    check_caller("jaxdp")
    sources = []
    for entry in source_entries(spec.data):
        source, columns = source_spec(entry, spec.task.fields)
        sources.append(_scanned(spec, entry, source_label(entry), source, columns, open_source(source), dry_run))
    names = [source.label for source in sources]
    return [
        dataclasses.replace(source, label=f"{source.label}_{number}") if names.count(source.label) > 1 else source
        for number, source in enumerate(sources)
    ]


def open_evaluation_source(spec: DatasetSpec) -> Source:
    """Opens and scans the validation split of a single source, without training data.

    Args:
        spec: Specification of the dataset; files are read from `eval_path` and `eval_target_path`, hf from `path` and `eval_split`.

    Raises:
        UserError: The source cannot be read.
    """
    [entry] = source_entries(spec.data)
    source, columns = source_spec(entry, spec.task.fields)
    parts = open_evaluation(source)
    label = source_label(
        {"source": source.source, "path": source.eval_path or source.path, "target_path": source.eval_target_path}
    )
    return _scanned(spec, entry | {"weight": None}, label, source, columns, ([], parts), dry_run=False)


def _described(source: SourceSpec) -> dict[str, Any]:
    """Returns the part of a scan's cache key that describes its source; the newest keys are included only if set."""
    unset = [key for key in ("encoding", "delimiter") if getattr(source, key) is None]
    return {key: value for key, value in dataclasses.asdict(source).items() if key not in unset}


def check_selection(spec: DatasetSpec) -> None:
    """Checks `data.eval_selection` against the labels of the task.

    Raises:
        UserError: It is unknown, or `stratified` for data without classes; the alternatives are named.
    """
    kind = spec.data.eval_selection
    if kind not in SELECTIONS:
        raise UserError(f"data.eval_selection={kind!r} is unknown; choose one of: {', '.join(SELECTIONS)}.")
    if kind != "stratified":
        return
    if not spec.task.has_labels:
        raise UserError(
            f"data.eval_selection=stratified needs labels, which task={spec.task.name} does not read: set random, which "
            "selects whole documents, or tail."
        )
    if spec.task.label_kind == "regression":
        raise UserError(
            "data.eval_selection=stratified needs classes, but classification.kind=regression has numbers: set random or tail."
        )


def _selection(spec: DatasetSpec, columns: Mapping[str, str]) -> Selection | None:
    """Returns the rule of `data.eval_selection`; None for the tail."""
    check_selection(spec)
    kind = spec.data.eval_selection
    if kind == "tail":
        return None
    if kind == "random":
        return Selection(kind, spec.seed)
    task, column = spec.task, columns["label"]
    assert task.label_kind is not None, "check_selection refuses stratified without labels"
    classes = record_classes(task.label_kind, task.label_separator)
    key = [LABELS_FORMAT, task.label_kind, task.label_separator, column]
    return Selection("stratified", spec.seed, lambda record: classes(record.fields[column]), key)


def _scanned(
    spec: DatasetSpec,
    entry: Mapping[str, Any],
    label: str,
    source: SourceSpec,
    columns: dict[str, str],
    parts: tuple[list[Part], list[Part] | None],
    dry_run: bool,
) -> Source:
    """Scans the source of an entry; `parts` are those of the training and of the validation split."""
    train, evaluation = parts
    for remark in dict.fromkeys(remark for part in (*train, *(evaluation or ())) for remark in part.remarks):
        print_status(remark)
    selection = _selection(spec, columns)
    record_columns = Columns(source.columns, source.label_columns)
    described = {
        "spec": _described(source) | absolute_places(entry),
        "num_train_parts": len(train),
        "parts": [[part.name, part.num_bytes, part.stamp] for part in (*train, *(evaluation or ()))],
    }
    place = scan_entry(spec, described, evaluation is not None, selection)

    def read() -> Scan:
        return scan_parts(train, evaluation, record_columns, spec.data.cleaning, spec.data.eval_fraction, selection)

    if dry_run and not is_whole(place):
        scan = read()
    else:
        scan = load_scan(cached(place, lambda directory: read().save(directory), print_status))
    return Source(label, entry["weight"], source, columns, train, evaluation, scan, place)
