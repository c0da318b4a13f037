"""From the configuration to rows: sources scanned, tokenizer made, text tokenized once and kept.

Starts no backend: it runs before JAX does, and before processes of a run meet.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jaxdp.data
import jaxdp.tasks.labels
from jaxdp.config import nearest
from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.order.mixture import ConcatenatedRows, MixtureOrder, mixture_weights
from jaxdp.data.order.partition import PARTITIONS
from jaxdp.data.order.row_order import Order, RowOrder
from jaxdp.data.pipeline import RowSource
from jaxdp.data.preparing.cache import cached, default_cache_dir, entry_path, is_whole
from jaxdp.data.preparing.examples import Examples, ExamplesWriter
from jaxdp.data.preparing.scan import Scan, kept_records, load_scan, scan_parts
from jaxdp.data.preparing.workers import Work, prepare_examples
from jaxdp.data.reading.record_stream import RecordStream
from jaxdp.data.reading.records import Columns, Part
from jaxdp.data.reading.sources import SourceSpec, open_source
from jaxdp.data.reading.stream_source import open_stream
from jaxdp.data.rows.long_documents import find_long
from jaxdp.data.rows.packed_pairs import PackedPairs, pack_pairs
from jaxdp.data.rows.packing import PackedRows, PackPlan, pack
from jaxdp.data.rows.padded import PaddedRows
from jaxdp.data.rows.tokens_file import CheckedWindows, fingerprint_tokens, open_token_splits
from jaxdp.data.rows.windows import TokenWindows
from jaxdp.data.stream import head_tokens
from jaxdp.data.tokenizers import Tokenizer, check_tokenizer_name, load_tokenizer, make_tokenizer
from jaxdp.errors import UserError
from jaxdp.experiment.parts import make_task, packing
from jaxdp.parallel.devices import num_cores
from jaxdp.tasks import LabelCensus, Labels, Task, load_labels
from jaxdp.terminal import memory_size, progress, quantity, say

WORKER_CHARACTERS = 40_000_000
"""Text that is worth one more worker: with 12 MB two were slower (5.3 s) than none (2.9 s)."""


@dataclasses.dataclass(frozen=True)
class Group:
    """One source of a mixture, as rows: its name, how many, and the weight that was asked for."""

    name: str
    num_rows: int
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Texts that a model shall write, and what is expected.

    Attributes:
        sources: token ids of each, end of text included.
        references: the targets as the tokenizer decodes them, as it does what the model writes.
    """

    sources: tuple[np.ndarray, ...]
    references: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Data:
    """Both splits as rows.

    Attributes:
        tokenizer: None for ready-made tokens.
        vocab_size: rows of the model's token embedding.
        train: rows to train on, of all sources one after the other; None for a stream.
        evaluation: the held-out rows.
        groups: the sources; one where there is no mixture.
        fingerprint: of the data, as a checkpoint records it.
        num_characters: of text that cleaning left; 0 for ready-made tokens.
        summary: for a person, a line a source.
        stream: what is trained on instead of rows.
        columns: of the stream: name that the task knows -> column.
        labels: of labelled data, found in the training part.
        pairs: held-out texts to be written and scored; None where the task scores none.
    """

    tokenizer: Tokenizer | None
    vocab_size: int
    train: RowSource | None
    evaluation: RowSource
    groups: tuple[Group, ...]
    fingerprint: str
    num_characters: int
    summary: tuple[str, ...]
    stream: RecordStream | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: Labels | None = None
    pairs: Pairs | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """One entry of the mixture, or the only source, opened and scanned."""

    label: str
    weight: float | None
    spec: SourceSpec
    columns: dict[str, str]
    train: list[Part]
    evaluation: list[Part] | None
    scan: Scan


def read_data(config: ConfigDict, tokenizer: Tokenizer | None = None, labels: Labels | None = None) -> Data:
    """Prepares both splits where that has not been done, and opens them.

    Args:
        config: `task` and its group, `data` and `model.vocab_size` are used.
        tokenizer: the run's own, when it exists already.
        labels: the run's own, when they exist already.

    Raises:
        UserError: anything wrong with the data or the keys that describe it.
    """
    _check_packing(config)
    check_tokenizer_name(config.data.tokenizer)
    if config.data.source == "tokens" and not config.data.mixture:
        return _ready_tokens(config)
    if config.data.source == "hf_stream" and not config.data.mixture:
        return _streamed(config, tokenizer)
    sources = open_sources(config)
    tokenizer = tokenizer or _tokenizer(config, sources)
    vocab_size = _vocab_size(config, tokenizer)
    if "label" in make_task(config, None).fields:
        labels = labels or _labels(config, sources)
    prepared = [_prepared(config, source, tokenizer, labels) for source in sources]
    task = make_task(config, tokenizer, labels)
    trains, evaluations = (
        {source.label: _rows(config, task, splits[split]) for source, splits in zip(sources, prepared, strict=True)}
        for split in SPLITS
    )
    groups = tuple(Group(source.label, trains[source.label].num_rows, source.weight) for source in sources)
    fingerprint = sources[0].scan.fingerprint
    if len(sources) > 1:
        fingerprint = _digest([source.scan.fingerprint for source in sources])
    return Data(
        tokenizer,
        vocab_size,
        _joined(trains),
        _joined(evaluations),
        groups,
        fingerprint,
        sum(source.scan.num_characters for source in sources),
        _summary(sources, prepared, trains, tokenizer),
        labels=labels,
        pairs=_pairs(config, task, prepared, tokenizer),
    )


def _joined(rows: Mapping[str, RowSource]) -> RowSource:
    return next(iter(rows.values())) if len(rows) == 1 else ConcatenatedRows(rows)


# ---- Sources ----------------------------------------------------------------


_SPEC_KEYS = ("source", "path", "eval_path", "name", "split", "eval_split", "errors")
_COLUMN_KEYS = ("text_column", "label_column", "source_column", "target_column")


def source_entries(config: ConfigDict) -> list[dict[str, Any]]:
    """The sources of `config.data`: entries of the mixture with defaults filled in, or the one source.

    Raises:
        UserError: an entry is no dict, has an unknown key, or lacks what it needs.
    """
    defaults = {key: config.data[key] for key in (*_SPEC_KEYS, *_COLUMN_KEYS)}
    if not config.data.mixture:
        return [defaults | {"weight": None}]
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
        own = {"path": None, "eval_path": None, "name": None, "split": None, "eval_split": None}
        entries.append(defaults | own | dict(entry) | {"weight": weight})
    return entries


def open_sources(config: ConfigDict, *, dry_run: bool = False) -> list[Source]:
    """Every source, opened and scanned; several of one name get a number.

    Args:
        config: `task` and `data` are used.
        dry_run: a new scan is not kept.

    Raises:
        UserError: of the readers.
    """
    sources = [_scanned(config, entry, dry_run) for entry in source_entries(config)]
    names = [source.label for source in sources]
    return [
        dataclasses.replace(source, label=f"{source.label}_{number}") if names.count(source.label) > 1 else source
        for number, source in enumerate(sources)
    ]


def _spec(config: ConfigDict, entry: Mapping[str, Any]) -> tuple[SourceSpec, dict[str, str]]:
    """An entry's source, and the column of each field that the task reads."""
    has_columns = entry["source"] not in ("stdlib", "text")
    fields = make_task(config, None).fields
    columns = {field: entry[f"{field}_column"] if has_columns else field for field in fields}
    spec = SourceSpec(
        **{key: entry[key] for key in _SPEC_KEYS},
        columns=tuple(column for field, column in columns.items() if field != "label"),
        label_columns=tuple(column for field, column in columns.items() if field == "label"),
    )
    return spec, columns


def _label(entry: Mapping[str, Any]) -> str:
    """A name for a person: the end of the path, or the kind of source."""
    return os.path.basename(os.path.normpath(entry["path"])) if entry["path"] else entry["source"]


def _scanned(config: ConfigDict, entry: Mapping[str, Any], dry_run: bool) -> Source:
    spec, columns = _spec(config, entry)
    train, evaluation = open_source(spec)
    record_columns = Columns(spec.columns, spec.label_columns)
    cleaner = Cleaner(config.data.cleaning, spec.columns)
    key = {
        "code": _code_version(),
        "spec": {**dataclasses.asdict(spec), "path": spec.path and os.path.abspath(os.path.expanduser(spec.path))},
        "parts": [[part.name, part.num_bytes, part.stamp] for part in (*train, *(evaluation or ()))],
        "cleaning": cleaner.identity,
        "eval_fraction": None if evaluation is not None else config.data.eval_fraction,
    }
    place = entry_path(_cache_dir(config), "scan", key)

    def read() -> Scan:
        return scan_parts(train, evaluation, record_columns, config.data.cleaning, config.data.eval_fraction)

    if dry_run and not is_whole(place):
        scan = read()
    else:
        scan = load_scan(cached(place, lambda directory: read().save(directory), say))
    return Source(_label(entry), entry["weight"], spec, columns, train, evaluation, scan)


# ---- Tokenizer --------------------------------------------------------------


def _tokenizer(config: ConfigDict, sources: Sequence[Source]) -> Tokenizer:
    """The tokenizer of `data.tokenizer`; one that is trained is kept in the cache."""
    name = config.data.tokenizer
    special_tokens = make_task(config, None).special_tokens
    if name == "byte":
        return make_tokenizer(name, (), special_tokens)
    place = tokenizer_place(config, sources)

    def build(directory: Path) -> None:
        tokenizer = make_tokenizer(name, _texts(config, sources), special_tokens)
        for remark in tokenizer.remarks:
            say(f"data.tokenizer={name}: {remark}")
        tokenizer.save(directory / "tokenizer.json")

    return load_tokenizer(cached(place, build, say) / "tokenizer.json")


def tokenizer_place(config: ConfigDict, sources: Sequence[Source]) -> Path:
    """Where in the cache the tokenizer of these sources lies, made or not."""
    name = config.data.tokenizer
    key = {
        "code": _code_version(),
        "name": name,
        "special_tokens": make_task(config, None).special_tokens,
        "file": _file_digest(name),
        "data": [[source.scan.fingerprint, source.scan.split] for source in sources],
        "cleaning": Cleaner(config.data.cleaning, ()).identity,
    }
    return entry_path(_cache_dir(config), "tokenizer", key)


def _texts(config: ConfigDict, sources: Sequence[Source]) -> Iterator[str]:
    """Cleaned text to make a vocabulary from: what is trained on; for characters, all."""
    splits = (False, True) if config.data.tokenizer == "char" else (False,)
    for source in sources:
        changes = Cleaner(config.data.cleaning, source.spec.columns).changes()
        for held_out in splits:
            for excerpt in kept_records(source.scan, source.train, source.evaluation, held_out=held_out):
                fields = changes(excerpt.record).fields
                for column in source.spec.columns:
                    yield fields[column][excerpt.begin : excerpt.finish]


def _vocab_size(config: ConfigDict, tokenizer: Tokenizer) -> int:
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size={vocab_size} is smaller than the tokenizer's vocabulary of "
            f"{tokenizer.vocab_size}; leave it unset or raise it."
        )
    return vocab_size


# ---- Labels -----------------------------------------------------------------


def _labels(config: ConfigDict, sources: Sequence[Source]) -> Labels:
    """The labels of the training part, kept in the cache.

    Raises:
        UserError: one that cannot be read, with its file and line; or nothing to tell apart.
    """
    options = config[config.task]

    def build(directory: Path) -> None:
        census = LabelCensus(options.kind, options.label_separator)
        for source in sources:
            for excerpt in kept_records(source.scan, source.train, source.evaluation, held_out=False):
                try:
                    census.add(excerpt.record.fields[source.columns["label"]])
                except UserError as error:
                    raise UserError(f"{excerpt.record.origin}: {error}") from error
        census.labels().save(directory / "labels.json")

    return load_labels(cached(_labels_place(config, sources), build, say) / "labels.json")


def existing_labels(config: ConfigDict, sources: Sequence[Source]) -> Labels | None:
    """Those in the cache; None if there are none, or the task has none."""
    if "label" not in make_task(config, None).fields:
        return None
    place = _labels_place(config, sources)
    return load_labels(place / "labels.json") if is_whole(place) else None


def _labels_place(config: ConfigDict, sources: Sequence[Source]) -> Path:
    options = config[config.task]
    key = {
        "code": _code_version(),
        "data": [[source.scan.fingerprint, source.scan.split, source.columns] for source in sources],
        "cleaning": Cleaner(config.data.cleaning, ()).identity,
        "kind": options.kind,
        "separator": options.label_separator,
    }
    return entry_path(_cache_dir(config), "labels", key)


# ---- Tokens -----------------------------------------------------------------


SPLITS = ("train", "eval")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One split of one source, tokenized: where in the cache, and its examples."""

    entry: Path
    split: str
    examples: Examples


def _prepared(
    config: ConfigDict, source: Source, tokenizer: Tokenizer, labels: Labels | None
) -> "dict[str, Prepared]":
    """The examples of both splits, tokenized now if they are not in the cache."""
    place = tokens_place(config, source, tokenizer, labels)

    def build(directory: Path) -> None:
        task = make_task(config, None, labels)
        work = Work(
            Cleaner(config.data.cleaning, source.spec.columns).changes(), source.columns, task.prepare, tokenizer
        )
        num_labels = len(labels.names) if labels else 0
        dtype = np.min_scalar_type(max(tokenizer.vocab_size, num_labels) - 1)
        terminators = dict.fromkeys(task.terminated, tokenizer.end_of_text_id)
        with progress(f"tokenizing {source.label}", source.scan.num_characters) as advance:
            for split in SPLITS:
                (directory / split).mkdir()
                with contextlib.closing(ExamplesWriter(directory / split, dtype, terminators)) as writer:
                    prepare_examples(
                        kept_records(source.scan, source.train, source.evaluation, held_out=split == "eval"),
                        work,
                        writer,
                        num_workers=num_workers(config, source.scan.num_characters),
                        advance=advance,
                    )

    directory = cached(place, build, say)
    examples = {split: Examples(directory / split) for split in SPLITS}
    for split, found in examples.items():
        if not found.num_examples:
            raise UserError(
                f"data: cleaning leaves no record in the {split} split of {source.label}: loosen "
                "data.cleaning or change the split."
            )
    return {split: Prepared(directory, split, found) for split, found in examples.items()}


def tokens_place(
    config: ConfigDict, source: Source, tokenizer: Tokenizer, labels: Labels | None = None
) -> Path:
    """Where in the cache the tokens of a source lie, made or not."""
    task = make_task(config, None, labels)
    key = {
        "code": _code_version(type(task)),
        "data": source.scan.fingerprint,
        "split": source.scan.split,
        "columns": source.columns,
        "cleaning": Cleaner(config.data.cleaning, ()).identity,
        "tokenizer": _digest(tokenizer.to_json()),
        "task": config.task,
        "prepared_with": dict(task.prepared_with),
    }
    return entry_path(_cache_dir(config), "tokens", key)


def num_workers(config: ConfigDict, num_characters: int) -> int:
    """Processes that tokenize beside this one; 0: this one does."""
    if config.data.num_workers is not None:
        return config.data.num_workers
    if config.data.tokenizer in ("byte", "char"):
        return 0  # NumPy tokenizes faster than text can be sent to a worker
    workers = min(num_cores(), num_characters // WORKER_CHARACTERS)
    return workers if workers > 1 else 0


def _cache_dir(config: ConfigDict) -> Path:
    given = config.data.cache_dir
    return Path(os.path.abspath(os.path.expanduser(given))) if given else default_cache_dir()


def _code_version(*classes: type) -> str:
    """Digest of the source that the prepared data depends on: the data floor, labels, and the task's class."""
    files = sorted(Path(jaxdp.data.__file__).parent.rglob("*.py"))
    code = [inspect.getsource(part) for part in (jaxdp.tasks.labels, *classes)]
    return _digest([file.read_text() for file in files] + code)


def _file_digest(name: str) -> str | None:
    path = Path(name).expanduser()
    return _digest(path.read_text()) if name.endswith(".json") and path.is_file() else None


def _digest(value: str | Sequence[str]) -> str:
    parts = [value] if isinstance(value, str) else value
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


# ---- Rows -------------------------------------------------------------------


def _check_packing(config: ConfigDict) -> None:
    if packing(config) not in _PACKINGS:
        raise UserError(f"data.packing={config.data.packing!r} is unknown; choose one of: {', '.join(_PACKINGS)}.")
    readable = make_task(config, None).packings
    if packing(config) not in readable:
        raise UserError(
            f"data.packing={config.data.packing!r} does not serve task={config.task!r}; choose {' or '.join(readable)}."
        )
    if config.data.source == "tokens" and packing(config) != "cut":
        raise UserError(f"data.packing={packing(config)!r} needs documents, which data.source=tokens does not know; choose cut.")


def _rows(config: ConfigDict, task: Task, prepared: Prepared) -> RowSource:
    return _PACKINGS[packing(config)](config, task, prepared)


def _cut(config: ConfigDict, task: Task, prepared: Prepared) -> TokenWindows:
    tokens = prepared.examples.flat("tokens")
    # End of text stands between two documents; after the last there is nothing to end.
    return TokenWindows(
        tokens, task.row_lengths["tokens"], keep_tail=prepared.split == "eval", num_tokens=len(tokens) - 1
    )


def _documents(config: ConfigDict, task: Task, prepared: Prepared) -> PackedRows | PackedPairs:
    examples = prepared.examples
    if "target_tokens" in examples.names:
        return _packed_pairs(config, task, examples)
    tokens = examples.ragged("tokens")
    shape = {"length": task.row_lengths["tokens"], "long_documents": config.data.long_documents}
    key = {"code": _code_version(), "tokens": prepared.entry.name, "split": prepared.split, **shape}
    place = entry_path(_cache_dir(config), "plan", key)
    plan = cached(place, lambda directory: pack(tokens.lengths(), **shape).save(directory), say)
    beside = {name: examples.flat(name) for name in task.row_lengths if name != "tokens"}
    return PackedRows(PackPlan.load(plan), tokens.flat, beside)


def _packed_pairs(config: ConfigDict, task: Task, examples: Examples) -> PackedPairs:
    sources, targets = examples.ragged("tokens"), examples.ragged("target_tokens")
    lengths, places = task.row_lengths, config.data.long_documents
    is_long = find_long(sources.lengths(), lengths["tokens"], places)
    is_long |= find_long(targets.lengths(), lengths["target_tokens"], places, "data.target_length")
    kept = np.flatnonzero(~is_long) if places == "drop" else None
    if kept is not None and not kept.size:
        raise UserError("data.long_documents=drop leaves no pair: raise data.length and data.target_length.")
    shape = (lengths["tokens"], lengths["target_tokens"])
    plan = pack_pairs(sources.lengths(), targets.lengths(), shape, kept)
    return PackedPairs(plan, sources, targets, task.start_id)


def _padded(config: ConfigDict, task: Task, prepared: Prepared) -> PaddedRows:
    examples = prepared.examples
    lengths = {name: task.row_lengths[name] for name in examples.names if examples.is_ragged(name)}
    arrays = {
        name: examples.ragged(name) if name in lengths else examples.scalars(name) for name in examples.names
    }
    return PaddedRows(arrays, lengths, config.data.long_documents)


_PACKINGS = {"cut": _cut, "documents": _documents, "none": _padded}


def _pairs(
    config: ConfigDict, task: Task, prepared: Sequence[Mapping[str, Prepared]], tokenizer: Tokenizer
) -> Pairs | None:
    """Held-out pairs to score, spread evenly over the split; of a mixture those of its first source."""
    if not task.score_metrics or not config.eval.num_scored:
        return None
    examples = prepared[0]["eval"].examples
    num_pairs = min(config.eval.num_scored, examples.num_examples)
    chosen = np.linspace(0, examples.num_examples - 1, num_pairs).astype(np.int64)
    most = task.row_lengths["tokens"]
    sources = tuple(text[:most].astype(np.int32) for text in _texts_of(examples, "tokens", chosen))
    # Without end of text.
    references = tuple(tokenizer.decode(text[:-1]) for text in _texts_of(examples, "target_tokens", chosen))
    return Pairs(sources, references)


def _texts_of(examples: Examples, name: str, chosen: np.ndarray) -> list[np.ndarray]:
    tokens, lengths = examples.ragged(name).take(chosen)
    return np.split(tokens, np.cumsum(lengths)[:-1])


def _summary(
    sources: Sequence[Source],
    prepared: Sequence[Mapping[str, Prepared]],
    rows: Mapping[str, RowSource],
    tokenizer: Tokenizer,
) -> tuple[str, ...]:
    """One line a source, and what holds for all."""
    lines = []
    for source, splits in zip(sources, prepared, strict=True):
        train, held_out = (_num_tokens(splits[split].examples) for split in SPLITS)
        parts = len(source.scan.part_records)
        efficiency = getattr(rows[source.label], "efficiency", None)
        lines.append(
            f"{source.label}: {parts} {'files' if parts > 1 else 'file'}, {quantity(train)} tokens to train on, "
            f"{quantity(held_out)} held out"
            + (f", rows {np.min(efficiency):.1%} full" if efficiency is not None else "")
        )
    lines[-1] += f", {tokenizer.describe()}"
    return tuple(lines)


def _num_tokens(examples: Examples) -> int:
    return sum(len(examples.flat(name)) for name in examples.names if examples.is_ragged(name))


def _ready_tokens(config: ConfigDict) -> Data:
    vocab_size = config.model.vocab_size
    if not vocab_size:
        raise UserError(
            "data.source=tokens needs model.vocab_size: that of the tokenizer which wrote the file "
            "(GPT-2: 50257)."
        )
    files = open_token_splits(config.data.path, config.data.eval_fraction)
    train, evaluation = (
        CheckedWindows(TokenWindows(file.tokens, config.data.length, keep_tail), file, vocab_size)
        for file, keep_tail in zip(files, (False, True), strict=True)
    )
    return Data(
        None,
        vocab_size,
        train,
        evaluation,
        (Group(os.path.basename(os.path.normpath(config.data.path)), train.num_rows),),
        fingerprint_tokens(files),
        0,
        (
            f"tokens: {quantity(files[0].tokens.size)} to train on, {quantity(files[1].tokens.size)} held out "
            f"({memory_size(sum(file.tokens.nbytes for file in files))})",
        ),
    )


def _streamed(config: ConfigDict, tokenizer: Tokenizer | None) -> Data:
    """A stream to train on, and the first rows of its held-out split in memory."""
    _check_stream(config)
    [entry] = source_entries(config)
    spec, columns = _spec(config, entry)
    tokenizer = tokenizer or make_tokenizer(config.data.tokenizer, ())
    shuffle = {"seed": config.seed, "shuffle": config.data.shuffle, "shuffle_buffer": config.data.shuffle_buffer}
    stream = open_stream(spec, config.data.split or "train", **shuffle)
    if not stream.exact:
        say(stream.inexact_reason)
    held_out = open_stream(spec, config.data.eval_split)
    task, length = make_task(config, None), config.data.length

    def prepare(fields: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        return task.prepare({name: fields[column] for name, column in columns.items()}, tokenizer)

    num_tokens = config.eval.num_batches * config.global_batch_size * length + 1
    tokens = head_tokens(held_out, prepare, tokenizer.end_of_text_id, num_tokens)
    return Data(
        tokenizer,
        _vocab_size(config, tokenizer),
        None,
        TokenWindows(tokens, length, keep_tail=True),
        (Group(_label(entry), 0),),
        stream.fingerprint,
        0,
        (
            f"{_label(entry)}: a stream, resumed {'exactly' if stream.exact else 'inexactly'}, "
            f"{quantity(len(tokens))} tokens held out, {tokenizer.describe()}",
        ),
        stream,
        columns,
    )


def _check_stream(config: ConfigDict) -> None:
    """Refuses what a stream cannot do, with what can."""
    kind = config.data.tokenizer.partition(":")[0]
    trained = kind in ("char", "bpe", "wordpiece", "unigram")
    for wrong, what, cure in (
        (config.data.eval_split is None, "no data.eval_split", "name the split to evaluate on"),
        (config.eval.num_batches < 1, "eval.num_batches=0", "set how many batches to hold out in memory"),
        (config.total_epochs is not None, "total_epochs", "a stream has no known end: use total_steps or total_tokens"),
        (packing(config) != "cut", f"data.packing={packing(config)}", "choose cut, or prepare the data with data.source=hf"),
        (config.data.cleaning != (), "data.cleaning", "clean it beforehand, or prepare it with data.source=hf"),
        (trained, f"data.tokenizer={config.data.tokenizer}", "a stream cannot train one: choose byte, hf:NAME or FILE.json"),
    ):
        if wrong:
            raise UserError(f"data.source=hf_stream with {what}: {cure}.")


def row_order(config: ConfigDict, data: Data, exclusions: tuple[int, ...] = ()) -> Order:
    """Which rows are in which batch."""
    if config.data.partition not in PARTITIONS:
        raise UserError(f"data.partition={config.data.partition!r} is unknown; choose one of: {', '.join(PARTITIONS)}.")
    shared = {
        "global_batch_size": config.global_batch_size,
        "seed": config.seed,
        "shuffle": config.data.shuffle,
        "exclusions": exclusions,
    }
    if len(data.groups) == 1:
        return RowOrder(num_rows=data.train.num_rows, **shared)
    sizes = tuple(group.num_rows for group in data.groups)
    weights = mixture_weights(sizes, [group.weight for group in data.groups], config.data.temperature)
    return MixtureOrder(sizes=sizes, weights=weights, **shared)


def source_shares(
    order: Order, groups: Sequence[Group], first_step: int, last_step: int
) -> dict[str, float]:
    """`data/share/<source>` of a mixture: its share of the rows of some batches; nothing without a mixture."""
    if not isinstance(order, MixtureOrder):
        return {}
    rows = order.shares(first_step, last_step)
    return {f"data/share/{group.name}": float(share) for group, share in zip(groups, rows / rows.sum(), strict=True)}
