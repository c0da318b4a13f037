"""Tokenizers and labels from the training data, and every text tokenized once; all kept in the cache."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.preparing.cache import cached, is_whole
from jaxdp.data.preparing.examples import Examples, ExamplesWriter
from jaxdp.data.preparing.scan import kept_records
from jaxdp.data.preparing.workers import Work, prepare_examples
from jaxdp.data.tokenizers import Tokenizer, check_tokenizer_name, load_tokenizer, make_tokenizer
from jaxdp.errors import UserError
from jaxdp.experiment.cache_entries import labels_entry, texts_entry, tokenizer_entry, tokens_entry
from jaxdp.experiment.named_files import NamedFiles, read_named_files
from jaxdp.experiment.sources import Source
from jaxdp.experiment.vocabularies import Vocabularies
from jaxdp.parallel.devices import num_cores
from jaxdp.report.terminal import print_status, progress
from jaxdp.tasks import LabelCensus, Labels, load_labels
from jaxdp.training.parts import make_task

SPLITS = ("train", "eval")

TEXTS = "texts.json"

WORKER_CHARACTERS = 40_000_000
"""Text that is worth one more worker: with 12 MB two were slower (5.3 s) than none (2.9 s)."""


@dataclass(frozen=True)
class Prepared:
    """One split of one source, tokenized: where in the cache, and its examples."""

    entry: Path
    split: str
    examples: Examples


def check_tokenizers(config: ConfigDict) -> None:
    """Raises UserError where `data.tokenizer` or `data.target_tokenizer` cannot be meant."""
    check_tokenizer_name(config.data.tokenizer)
    if config.data.target_tokenizer is None:
        return
    check_tokenizer_name(config.data.target_tokenizer)
    if not make_task(config).score_metrics:
        raise UserError(
            f"data.target_tokenizer={config.data.target_tokenizer!r}, but task={config.task} writes no target "
            "apart from what it reads; leave it unset."
        )


def make_vocabularies(config: ConfigDict, sources: Sequence[Source], known: Vocabularies) -> Vocabularies:
    """The tokenizers and labels of these sources.

    Args:
        config: `task`, its group and `data` are used.
        sources: their training parts are read where something is to be made.
        known: what exists already, and stays.

    Raises:
        UserError: a tokenizer that cannot be made, or a label that cannot be read, with its file and line.
    """
    tokenizers = {
        name: getattr(known, name) or _tokenizer(config, sources, made_of, known.files)
        for name, made_of in _tokenizers(config).items()
    }
    has_labels = "label" in make_task(config).fields
    return Vocabularies(**tokenizers, files=known.files, labels=known.labels or (_labels(config, sources) if has_labels else None))


def with_named_files(config: ConfigDict, known: Vocabularies) -> Vocabularies:
    """Reads the files that the configuration names and that the run does not have yet.

    Raises:
        UserError: A file that cannot be read.
    """
    return dataclasses.replace(known, files=read_named_files(config, known.files, known.tokenizer is not None))


def existing_vocabularies(config: ConfigDict, sources: Sequence[Source], files: NamedFiles) -> Vocabularies:
    """Those that are made or in the cache."""
    found = {}
    for name, (tokenizer, fields) in _tokenizers(config).items():
        place = _tokenizer_place(config, sources, (tokenizer, fields), files)
        if tokenizer == "byte":
            found[name] = _tokenizer(config, sources, (tokenizer, fields), files)
        elif is_whole(place):
            found[name] = load_tokenizer(place / "tokenizer.json")
    if "label" in make_task(config).fields and is_whole(place := _labels_place(config, sources)):
        found["labels"] = load_labels(place / "labels.json")
    return Vocabularies(**found)


def _tokenizers(config: ConfigDict) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Of each tokenizer of `Vocabularies` its name in the configuration, and the fields that it is made from."""
    fields = tuple(field for field in make_task(config).fields if field != "label")
    if config.data.target_tokenizer is None:
        return {"tokenizer": (config.data.tokenizer, fields)}
    return {
        "tokenizer": (config.data.tokenizer, ("source",)),
        "target_tokenizer": (config.data.target_tokenizer, ("target",)),
    }


def _tokenizer(
    config: ConfigDict, sources: Sequence[Source], made_of: tuple[str, tuple[str, ...]], files: NamedFiles
) -> Tokenizer:
    """A tokenizer by its name; one that is trained is kept in the cache."""
    name, fields = made_of
    special_tokens = make_task(config).special_tokens
    if name == "byte":
        return make_tokenizer(name, (), special_tokens)

    def build(directory: Path) -> None:
        tokenizer = make_tokenizer(name, _texts(config, sources, name, fields), special_tokens, files.texts.get(name))
        for remark in tokenizer.remarks:
            print_status(f"data.tokenizer={name}: {remark}")
        tokenizer.save(directory / "tokenizer.json")

    return load_tokenizer(cached(_tokenizer_place(config, sources, made_of, files), build, print_status) / "tokenizer.json")


def _tokenizer_place(
    config: ConfigDict, sources: Sequence[Source], made_of: tuple[str, tuple[str, ...]], files: NamedFiles
) -> Path:
    scanned = [(source.scan, source.columns) for source in sources]
    return tokenizer_entry(config, *made_of, scanned, files.tokenizers.get(made_of[0]))


def _texts(config: ConfigDict, sources: Sequence[Source], name: str, fields: Sequence[str]) -> Iterator[str]:
    """Cleaned text to make a vocabulary from: what is trained on; for characters, all."""
    splits = (False, True) if name == "char" else (False,)
    if name == "char":
        yield make_task(config).prompt_end  # which the data need not have
    for source in sources:
        changes = Cleaner(config.data.cleaning, source.spec.columns).changes()
        for held_out in splits:
            for excerpt in kept_records(source.scan, source.train, source.evaluation, held_out=held_out):
                record = changes(excerpt.record).fields
                for field in fields:
                    yield record[source.columns[field]][excerpt.begin : excerpt.finish]


def _labels(config: ConfigDict, sources: Sequence[Source]) -> Labels:
    """The labels of the training part, kept in the cache."""
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

    return load_labels(cached(_labels_place(config, sources), build, print_status) / "labels.json")


def _labels_place(config: ConfigDict, sources: Sequence[Source]) -> Path:
    return labels_entry(config, [(source.scan, source.columns) for source in sources])


def tokens_place(config: ConfigDict, source: Source, vocabularies: Vocabularies) -> Path:
    """Where in the cache the tokens of a source lie, made or not."""
    return tokens_entry(config, source.scan, source.columns, vocabularies)


def prepare_source(
    config: ConfigDict, source: Source, vocabularies: Vocabularies, splits: Sequence[str] = SPLITS
) -> dict[str, Prepared]:
    """Returns the examples of the splits, tokenized now if they are not in the cache.

    Args:
        config: `task`, its group and `data` are used.
        source: Of both splits, or with no record to train on.
        vocabularies: Of the run.
        splits: Those that must have an example; ("eval",) for a source without records to train on.

    Raises:
        UserError: a record that cannot be read, or none that is left.
    """

    def build(directory: Path) -> None:
        task = make_task(config, Vocabularies(labels=vocabularies.labels))
        changes = Cleaner(config.data.cleaning, source.spec.columns).changes()
        work = Work(changes, source.columns, task.prepare, vocabularies.both_tokenizers)
        terminators = {name: vocabularies.tokenizer_of(name).eos_id for name in task.eos_fields}
        with progress(f"tokenizing {source.label}", source.scan.num_characters) as advance:
            for split in splits:
                (directory / split).mkdir()
                with contextlib.closing(ExamplesWriter(directory / split, _dtype(vocabularies), terminators)) as writer:
                    prepare_examples(
                        kept_records(source.scan, source.train, source.evaluation, held_out=split == "eval"),
                        work,
                        writer,
                        num_workers=num_workers(config, source.scan.num_characters),
                        advance=advance,
                    )

    directory = cached(tokens_place(config, source, vocabularies), build, print_status)
    examples = {split: Examples(directory / split, directory) for split in splits}
    for split, found in examples.items():
        if not found.num_examples:
            raise UserError(
                f"data: cleaning leaves no record in the {split} split of {source.label}: loosen "
                "data.cleaning or change the split."
            )
    return {split: Prepared(directory, split, found) for split, found in examples.items()}


def held_out_texts(
    config: ConfigDict, source: Source, prepared: Prepared, field: str, numbers: Sequence[int]
) -> list[str]:
    """A field of some held-out records as it stands in the source, cleaned: what tokens may not give back.

    The held-out part is read once more, and the texts are kept in the cache.

    Args:
        config: `data` is used.
        source: of these records.
        prepared: the held-out examples made from it.
        field: as the task names it.
        numbers: of the examples, increasing; of records that are whole ones.
    """

    def build(directory: Path) -> None:
        changes, wanted = Cleaner(config.data.cleaning, source.spec.columns).changes(), set(numbers)
        excerpts = kept_records(source.scan, source.train, source.evaluation, held_out=True)
        texts = [
            changes(excerpt.record).fields[source.columns[field]]
            for number, excerpt in enumerate(excerpts)
            if number in wanted
        ]
        (directory / TEXTS).write_text(json.dumps(texts), encoding="utf-8")

    entry = cached(texts_entry(config, prepared.entry, field, numbers), build, print_status)
    return json.loads((entry / TEXTS).read_text(encoding="utf-8"))


def _dtype(vocabularies: Vocabularies) -> np.dtype:
    """The smallest that holds every token and every label."""
    sizes = [vocabularies.tokenizer.vocab_size, vocabularies.written.vocab_size]
    if vocabularies.labels:
        sizes.append(len(vocabularies.labels.names))
    return np.min_scalar_type(max(sizes) - 1)


def num_workers(config: ConfigDict, num_characters: int) -> int:
    """Processes that tokenize beside this one; 0: this one does."""
    if config.data.num_workers is not None:
        return config.data.num_workers
    if config.data.tokenizer in ("byte", "char"):
        return 0  # NumPy tokenizes faster than text can be sent to a worker
    workers = min(num_cores(), num_characters // WORKER_CHARACTERS)
    return workers if workers > 1 else 0
