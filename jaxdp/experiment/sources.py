"""From `config.data` to sources that are opened and scanned: what is there, and how it is split."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdp.arguments import check_caller
from jaxdp.data.labels import LABELS_FORMAT, record_classes
from jaxdp.data.preparing.cache import cached, is_whole
from jaxdp.data.preparing.scan import Scan, load_scan, scan_parts
from jaxdp.data.preparing.selection import SELECTIONS, Selection
from jaxdp.data.reading.records import Columns, Part
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.data.reading.sources import open_evaluation, open_source, registered_source
from jaxdp.errors import UserError
from jaxdp.experiment.cache_entries import scan_entry
from jaxdp.nearest import nearest
from jaxdp.report.terminal import print_status
from jaxdp.run_config import DATA_PLACES
from jaxdp.training.parts import absolute_places, make_task

_ONE_SOURCE_KEYS = ("target_path", "eval_target_path", "encoding", "delimiter")
"""Keys that say something about one source, and belong into the entries of a mixture."""

_SPEC_KEYS = ("source", *DATA_PLACES, "name", "split", "eval_split", "errors", "encoding", "delimiter")
_COLUMN_KEYS = ("text_column", "label_column", "source_column", "target_column")


@dataclasses.dataclass(frozen=True)
class Source:
    """One entry of the mixture, or the only source, opened and scanned; `scan_entry` is where the cache keeps the scan."""

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
        """How much there is of it, for a person: `3 files`."""
        number, is_paired = len(self.scan.part_records), self.spec.target_path is not None
        one, several = ("pair of files", "pairs of files") if is_paired else ("file", "files")
        return f"{number} {one if number == 1 else several}"


def source_entries(config: ConfigDict) -> list[dict[str, Any]]:
    """The sources of `config.data`: entries of the mixture with defaults filled in, or the one source.

    Raises:
        UserError: an entry is no dict, has an unknown key, or lacks what it needs.
    """
    defaults = {key: config.data[key] for key in (*_SPEC_KEYS, *_COLUMN_KEYS)}
    if not config.data.mixture:
        return [defaults | {"weight": None}]
    for key in _ONE_SOURCE_KEYS:
        if config.data[key] is not None:
            raise UserError(f"data.{key}={config.data[key]} is of one source: unset it, and give it to the entries of data.mixture.")
    entries = []
    for number, entry in enumerate(config.data.mixture):
        where = f"data.mixture[{number}]"
        if not isinstance(entry, Mapping):
            raise UserError(f"{where} is {entry!r}: expected a dict such as {{'source': 'text', 'path': 'books', 'weight': 1.0}}.")
        for key in entry:
            if key not in (*defaults, "weight"):
                raise UserError(f"{where} has unknown key {key!r}{nearest(key, (*defaults, 'weight'))}")
        if "source" not in entry:
            raise UserError(f"{where} has no 'source': give each entry one, such as 'text'.")
        if entry["source"] in ("tokens", "hf_stream"):
            raise UserError(f"{where} has source {entry['source']!r}, which cannot be mixed: expected a source of text.")
        weight = entry.get("weight")
        if weight is not None and not (isinstance(weight, int | float) and 0 < weight < float("inf")):
            raise UserError(f"{where} has weight {weight!r}: expected a number above 0.")
        own = dict.fromkeys((*DATA_PLACES, "name", "split", "eval_split"))
        entries.append(defaults | own | dict(entry) | {"weight": weight})
    return entries


def open_sources(config: ConfigDict, *, dry_run: bool = False) -> list[Source]:
    """Every source, opened and scanned; several of one name get a number.

    Args:
        config: `task` and `data` are used.
        dry_run: a new scan is not kept.

    Raises:
        UserError: of the readers; or this is a worker, which would wait for the process that waits for it.
    """
    check_caller("jaxdp")
    sources = []
    for entry in source_entries(config):
        spec, columns = source_spec(config, entry)
        sources.append(_scanned(config, entry, source_label(entry), spec, columns, open_source(spec), dry_run))
    names = [source.label for source in sources]
    return [
        dataclasses.replace(source, label=f"{source.label}_{number}") if names.count(source.label) > 1 else source
        for number, source in enumerate(sources)
    ]


def open_evaluation_source(config: ConfigDict) -> Source:
    """Opens and scans the evaluation part of the one source of `config.data`; there is nothing to train on.

    Args:
        config: `task` and `data` are used; of the places `eval_path` and `eval_target_path`, of hf `path` and `eval_split`.

    Raises:
        UserError: of the readers.
    """
    [entry] = source_entries(config)
    spec, columns = source_spec(config, entry)
    parts = open_evaluation(spec)
    label = source_label({"source": spec.source, "path": spec.eval_path or spec.path, "target_path": spec.eval_target_path})
    return _scanned(config, entry | {"weight": None}, label, spec, columns, ([], parts), dry_run=False)


def source_spec(config: ConfigDict, entry: Mapping[str, Any]) -> tuple[SourceSpec, dict[str, str]]:
    """An entry's source, and the column of each field that the task reads."""
    has_columns = registered_source(entry["source"]).has_columns
    fields = make_task(config).fields
    columns = {field: entry[f"{field}_column"] if has_columns else field for field in fields}
    spec = SourceSpec(
        **{key: entry[key] for key in _SPEC_KEYS},
        columns=tuple(column for field, column in columns.items() if field != "label"),
        label_columns=tuple(column for field, column in columns.items() if field == "label"),
    )
    return spec, columns


def _described(spec: SourceSpec) -> dict[str, Any]:
    """A source as part of the key of its scan; keys that came later count where they are set."""
    unset = [key for key in ("encoding", "delimiter") if getattr(spec, key) is None]
    return {key: value for key, value in dataclasses.asdict(spec).items() if key not in unset}


def check_selection(config: ConfigDict) -> None:
    """Checks that the data has what `data.eval_selection` chooses from.

    Raises:
        UserError: It is unknown, or `stratified` for data without classes; names what serves instead.
    """
    kind = config.data.eval_selection
    if kind not in SELECTIONS:
        raise UserError(f"data.eval_selection={kind!r} is unknown; choose one of: {', '.join(SELECTIONS)}.")
    if kind != "stratified":
        return
    if "label" not in make_task(config).fields:
        raise UserError(
            f"data.eval_selection=stratified needs labels, which task={config.task} does not read: set random, which "
            "holds out whole documents, or tail."
        )
    if config[config.task].kind == "regression":
        raise UserError(
            "data.eval_selection=stratified needs classes, but classification.kind=regression has numbers: set random or tail."
        )


def _selection(config: ConfigDict, columns: Mapping[str, str]) -> Selection | None:
    """The rule of `data.eval_selection`; None for the tail."""
    check_selection(config)
    kind = config.data.eval_selection
    if kind == "tail":
        return None
    if kind == "random":
        return Selection(kind, config.seed)
    options, column = config[config.task], columns["label"]
    classes = record_classes(options.kind, options.label_separator)
    key = [LABELS_FORMAT, options.kind, options.label_separator, column]
    return Selection(kind, config.seed, lambda record: classes(record.fields[column]), key)


def source_label(entry: Mapping[str, Any]) -> str:
    """A name for a person: the end of the path, or of both paths of pairs, or the kind of source."""
    ends = [os.path.basename(os.path.normpath(entry[key])) for key in ("path", "target_path") if entry[key]]
    return " + ".join(ends) or entry["source"]


def _scanned(
    config: ConfigDict,
    entry: Mapping[str, Any],
    label: str,
    spec: SourceSpec,
    columns: dict[str, str],
    parts: tuple[list[Part], list[Part] | None],
    dry_run: bool,
) -> Source:
    """The source of an entry, whose parts are those to train on and those to evaluate on."""
    train, evaluation = parts
    for remark in dict.fromkeys(remark for part in (*train, *(evaluation or ())) for remark in part.remarks):
        print_status(remark)
    selection = _selection(config, columns)
    record_columns = Columns(spec.columns, spec.label_columns)
    described = {
        "spec": _described(spec) | absolute_places(entry),
        "num_train_parts": len(train),
        "parts": [[part.name, part.num_bytes, part.stamp] for part in (*train, *(evaluation or ()))],
    }
    place = scan_entry(config, described, evaluation is not None, selection)

    def read() -> Scan:
        return scan_parts(train, evaluation, record_columns, config.data.cleaning, config.data.eval_fraction, selection)

    if dry_run and not is_whole(place):
        scan = read()
    else:
        scan = load_scan(cached(place, lambda directory: read().save(directory), print_status))
    return Source(label, entry["weight"], spec, columns, train, evaluation, scan, place)
