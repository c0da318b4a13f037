"""Tokenization of a dataset: builds tokenizers and label vocabulary, and tokenizes every text once into the cache."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdp.data.cache_keys import labels_entry, texts_entry, tokenizer_entry, tokens_entry
from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.dataset import DatasetSpec
from jaxdp.data.labels import LabelCensus, Labels, load_labels
from jaxdp.data.named_files import NamedFiles, read_named_files
from jaxdp.data.preparing.cache import cached, is_whole
from jaxdp.data.preparing.examples import Examples, ExamplesWriter
from jaxdp.data.preparing.scan import kept_records
from jaxdp.data.preparing.workers import Work, prepare_examples
from jaxdp.data.source_entries import Source
from jaxdp.data.tokenizers import Tokenizer, check_tokenizer_name, load_tokenizer, make_tokenizer
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.errors import UserError
from jaxdp.hardware.cores import num_cores
from jaxdp.report.terminal import print_status, progress

SPLITS = ("train", "eval")

TEXTS = "texts.json"

WORKER_CHARACTERS = 40_000_000
"""Characters of text per worker process: on 12 MB two workers took 5.3 s, no worker 2.9 s."""


@dataclass(frozen=True)
class Prepared:
    """One tokenized split of one source: its cache entry and its examples."""

    entry: Path
    split: str
    examples: Examples


def check_tokenizers(spec: DatasetSpec) -> None:
    """Raises UserError if `data.tokenizer` or `data.target_tokenizer` is unknown or does not fit the task."""
    check_tokenizer_name(spec.data.tokenizer)
    if spec.data.target_tokenizer is None:
        return
    check_tokenizer_name(spec.data.target_tokenizer)
    if not spec.task.generates_targets:
        raise UserError(
            f"data.target_tokenizer={spec.data.target_tokenizer!r}, but task={spec.task.name} generates no separate "
            "target; leave it unset."
        )


def make_vocabularies(spec: DatasetSpec, sources: Sequence[Source], known: Vocabularies) -> Vocabularies:
    """Builds the tokenizers and labels of these sources.

    Args:
        spec: Specification of the dataset.
        sources: Sources; their training splits are read if something is missing.
        known: Vocabularies that exist already; they are kept.

    Raises:
        UserError: A tokenizer cannot be built, or a label cannot be read; its file and line are named.
    """
    tokenizers = {
        name: getattr(known, name) or _tokenizer(spec, sources, made_of, known.files)
        for name, made_of in _tokenizers(spec).items()
    }
    return Vocabularies(
        **tokenizers,
        files=known.files,
        labels=known.labels or (_labels(spec, sources) if spec.task.has_labels else None),
        other_eos_ids=known.other_eos_ids,
    )


def with_named_files(spec: DatasetSpec, known: Vocabularies) -> Vocabularies:
    """Reads the files that the configuration names and that the run does not have yet.

    Raises:
        UserError: A file cannot be read.
    """
    return dataclasses.replace(known, files=read_named_files(spec.data, known.files, known.tokenizer is not None))


def existing_vocabularies(spec: DatasetSpec, sources: Sequence[Source], files: NamedFiles) -> Vocabularies:
    """Returns the vocabularies that are in the cache or need no training."""
    found = {}
    for name, (tokenizer, fields) in _tokenizers(spec).items():
        place = _tokenizer_place(spec, sources, (tokenizer, fields), files)
        if tokenizer == "byte":
            found[name] = _tokenizer(spec, sources, (tokenizer, fields), files)
        elif is_whole(place):
            found[name] = load_tokenizer(place / "tokenizer.json")
    if spec.task.has_labels and is_whole(place := _labels_place(spec, sources)):
        found["labels"] = load_labels(place / "labels.json")
    return Vocabularies(**found)


def _tokenizers(spec: DatasetSpec) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Returns for each tokenizer of `Vocabularies` its name in the configuration and the fields that it is trained on."""
    if spec.data.target_tokenizer is None:
        return {"tokenizer": (spec.data.tokenizer, spec.task.text_fields)}
    return {
        "tokenizer": (spec.data.tokenizer, ("source",)),
        "target_tokenizer": (spec.data.target_tokenizer, ("target",)),
    }


def _tokenizer(
    spec: DatasetSpec, sources: Sequence[Source], made_of: tuple[str, tuple[str, ...]], files: NamedFiles
) -> Tokenizer:
    """Returns the tokenizer of this name; a trained one is stored in the cache."""
    name, fields = made_of
    special_tokens = spec.task.special_tokens
    if name == "byte":
        return make_tokenizer(name, (), special_tokens)

    def build(directory: Path) -> None:
        tokenizer = make_tokenizer(name, _texts(spec, sources, name, fields), special_tokens, files.texts.get(name))
        for remark in tokenizer.remarks:
            print_status(f"data.tokenizer={name}: {remark}")
        tokenizer.save(directory / "tokenizer.json")

    return load_tokenizer(
        cached(_tokenizer_place(spec, sources, made_of, files), build, print_status) / "tokenizer.json"
    )


def _tokenizer_place(
    spec: DatasetSpec, sources: Sequence[Source], made_of: tuple[str, tuple[str, ...]], files: NamedFiles
) -> Path:
    scanned = [(source.scan, source.columns) for source in sources]
    return tokenizer_entry(spec, *made_of, scanned, files.tokenizers.get(made_of[0]))


def _texts(spec: DatasetSpec, sources: Sequence[Source], name: str, fields: Sequence[str]) -> Iterator[str]:
    """Yields the cleaned text for a vocabulary: the training split, or both splits for characters."""
    splits = (False, True) if name == "char" else (False,)
    if name == "char":
        yield spec.task.prompt_end  # the data may lack its characters
    for source in sources:
        changes = Cleaner(spec.data.cleaning, source.spec.columns).changes()
        for held_out in splits:
            for excerpt in kept_records(source.scan, source.train, source.evaluation, held_out=held_out):
                record = changes(excerpt.record).fields
                for field in fields:
                    yield record[source.columns[field]][excerpt.begin : excerpt.finish]


def _labels(spec: DatasetSpec, sources: Sequence[Source]) -> Labels:
    """Returns the labels of the training split, stored in the cache."""
    kind = spec.task.label_kind
    if kind is None:
        raise ValueError(f"task {spec.task.name} has no labels to collect")

    def build(directory: Path) -> None:
        census = LabelCensus(kind, spec.task.label_separator)
        for source in sources:
            for excerpt in kept_records(source.scan, source.train, source.evaluation, held_out=False):
                try:
                    census.add(excerpt.record.fields[source.columns["label"]])
                except UserError as error:
                    raise UserError(f"{excerpt.record.origin}: {error}") from error
        census.labels().save(directory / "labels.json")

    return load_labels(cached(_labels_place(spec, sources), build, print_status) / "labels.json")


def _labels_place(spec: DatasetSpec, sources: Sequence[Source]) -> Path:
    return labels_entry(spec, [(source.scan, source.columns) for source in sources])


def tokens_place(spec: DatasetSpec, source: Source, vocabularies: Vocabularies) -> Path:
    """Returns the cache entry for the tokens of a source, present or not."""
    return tokens_entry(spec, source.scan, source.columns, vocabularies)


def prepare_source(
    spec: DatasetSpec, source: Source, vocabularies: Vocabularies, splits: Sequence[str] = SPLITS
) -> dict[str, Prepared]:
    """Returns the examples of the splits, tokenized now if they are not in the cache.

    Args:
        spec: Specification of the dataset.
        source: Source with both splits, or with the validation split only.
        vocabularies: Vocabularies of the run.
        splits: Splits that must have an example; ("eval",) for a source without training records.

    Raises:
        UserError: A record cannot be read, or cleaning leaves none.
    """

    def build(directory: Path) -> None:
        task = spec.task.bind(Vocabularies(labels=vocabularies.labels))
        changes = Cleaner(spec.data.cleaning, source.spec.columns).changes()
        work = Work(changes, source.columns, task.prepare, vocabularies.both_tokenizers)
        terminators = {
            name: (
                vocabularies.output_tokenizer if name == spec.task.generated_field else vocabularies.input_tokenizer
            ).eos_id
            for name in spec.task.eos_fields
        }
        with progress(f"tokenizing {source.label}", source.scan.num_characters) as advance:
            for split in splits:
                (directory / split).mkdir()
                with contextlib.closing(ExamplesWriter(directory / split, _dtype(vocabularies), terminators)) as writer:
                    prepare_examples(
                        kept_records(source.scan, source.train, source.evaluation, held_out=split == "eval"),
                        work,
                        writer,
                        num_workers=num_workers(spec, source.scan.num_characters),
                        advance=advance,
                    )

    directory = cached(tokens_place(spec, source, vocabularies), build, print_status)
    examples = {split: Examples(directory / split, directory) for split in splits}
    for split, found in examples.items():
        if not found.num_examples:
            raise UserError(
                f"data: cleaning leaves no record in the {split} split of {source.label}: loosen "
                "data.cleaning or change the split."
            )
    return {split: Prepared(directory, split, found) for split, found in examples.items()}


def validation_texts(
    spec: DatasetSpec, source: Source, prepared: Prepared, field: str, numbers: Sequence[int]
) -> list[str]:
    """Returns the cleaned text of one field of some validation records, which decoding their tokens may not restore.

    The validation split is read once more; the texts are stored in the cache.

    Args:
        spec: Specification of the dataset.
        source: Source of these records.
        prepared: Validation examples of this source.
        field: Field of the task.
        numbers: Numbers of the examples, increasing; each is one whole record.
    """

    def build(directory: Path) -> None:
        changes, wanted = Cleaner(spec.data.cleaning, source.spec.columns).changes(), set(numbers)
        excerpts = kept_records(source.scan, source.train, source.evaluation, held_out=True)
        texts = [
            changes(excerpt.record).fields[source.columns[field]]
            for number, excerpt in enumerate(excerpts)
            if number in wanted
        ]
        (directory / TEXTS).write_text(json.dumps(texts), encoding="utf-8")

    entry = cached(texts_entry(spec, prepared.entry, field, numbers), build, print_status)
    return json.loads((entry / TEXTS).read_text(encoding="utf-8"))


def _dtype(vocabularies: Vocabularies) -> np.dtype:
    """Returns the smallest dtype that holds every token and every label."""
    sizes = [vocabularies.input_tokenizer.vocab_size, vocabularies.output_tokenizer.vocab_size]
    if vocabularies.labels:
        sizes.append(len(vocabularies.labels.names))
    return np.min_scalar_type(max(sizes) - 1)


def num_workers(spec: DatasetSpec, num_characters: int) -> int:
    """Returns the number of worker processes that tokenize; 0: this process does."""
    if spec.data.num_workers is not None:
        return spec.data.num_workers
    if spec.data.tokenizer in ("byte", "char"):
        return 0  # NumPy tokenizes faster than text can be sent to a worker
    workers = min(num_cores(), num_characters // WORKER_CHARACTERS)
    return workers if workers > 1 else 0
