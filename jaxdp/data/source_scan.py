"""Scan of the sources of a dataset: records, split and fingerprint."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdp.arguments import check_caller
from jaxdp.data.cache_keys import scan_entry
from jaxdp.data.labels import LABELS_FORMAT, record_classes
from jaxdp.data.preparing.cache import cached, is_whole
from jaxdp.data.preparing.scan import Scan, load_scan, scan_parts
from jaxdp.data.preparing.selection import SELECTIONS, Selection
from jaxdp.data.reading.records import Columns, Part
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.data.reading.sources import open_evaluation, open_source
from jaxdp.data.source_entries import absolute_places, source_entries, source_label, source_spec
from jaxdp.data.spec import DatasetSpec
from jaxdp.errors import UserError
from jaxdp.report.terminal import print_status


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
    classes = record_classes(task.label_kind, task.label_separator)
    key = [LABELS_FORMAT, task.label_kind, task.label_separator, column]
    return Selection(kind, spec.seed, lambda record: classes(record.fields[column]), key)


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
