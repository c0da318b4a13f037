"""Datasets that need no preparation: token files and streams of records."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.data.dataset import Dataset, DatasetSpec, Group
from jaxdp.data.preparing.examples import check_example
from jaxdp.data.reading.sources import check_keys
from jaxdp.data.reading.stream_source import open_stream
from jaxdp.data.sequences.tokens_file import (
    CheckedWindows,
    fingerprint_tokens,
    open_token_splits,
    open_tokens,
)
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.data.source_entries import source_entries, source_label, source_spec
from jaxdp.data.stream import head_tokens
from jaxdp.data.tokenization import with_named_files
from jaxdp.data.tokenizers import Tokenizer, make_tokenizer
from jaxdp.data.vocabularies import NONE, Vocabularies
from jaxdp.errors import UserError
from jaxdp.report.terminal import memory_size, print_status, quantity


def ready_tokens(spec: DatasetSpec) -> Dataset:
    """Opens the training and the validation split of `data.source=tokens`.

    Raises:
        UserError: The files or the keys that describe them are wrong.
    """
    [entry] = source_entries(spec.data)
    check_keys(source_spec(entry, spec.task.fields)[0])
    if spec.data.eval_selection != "tail":
        raise UserError(
            f"data.eval_selection={spec.data.eval_selection} selects records, but data.source=tokens has none: "
            "set tail, or write two files, train.bin and val.bin."
        )
    vocab_size = _token_file_vocab_size(spec)
    files = open_token_splits(spec.data.path, spec.data.eval_fraction)
    assert spec.data.path is not None, "open_token_splits refuses a missing path"
    train, evaluation = (
        CheckedWindows(TokenWindows(file.tokens, spec.data.length, keep_tail), file, vocab_size)
        for file, keep_tail in zip(files, (False, True), strict=True)
    )
    return Dataset(
        NONE,
        vocab_size,
        train,
        evaluation,
        (Group(os.path.basename(os.path.normpath(spec.data.path)), train.num_rows),),
        fingerprint_tokens(files),
        0,
        (
            f"tokens: {quantity(len(files[0].tokens))} for training, {quantity(len(files[1].tokens))} for validation "
            f"({memory_size(sum(file.tokens.nbytes for file in files))})",
        ),
    )


def _token_file_vocab_size(spec: DatasetSpec) -> int:
    """Returns `model.vocab_size`, which nothing but the configuration tells of a token file."""
    if not spec.vocab_size:
        raise UserError(
            "data.source=tokens needs model.vocab_size: set it to the vocabulary size of the file's tokenizer "
            "(GPT-2: 50257)."
        )
    return spec.vocab_size


def evaluation_tokens(spec: DatasetSpec) -> Dataset:
    """Opens the token file `data.eval_path` as a validation split."""
    if not spec.data.eval_path:
        raise UserError("data.source=tokens is evaluated on one .bin file: set data.eval_path.")
    vocab_size = _token_file_vocab_size(spec)
    file = open_tokens(os.path.expanduser(spec.data.eval_path), "data.eval_path")
    rows = CheckedWindows(TokenWindows(file.tokens, spec.data.length, keep_tail=True), file, vocab_size)
    group = Group(os.path.basename(file.path), 0)
    return Dataset(NONE, vocab_size, None, rows, (group,), fingerprint_tokens([file]), 0, ())


def evaluation_stream(spec: DatasetSpec, known: Vocabularies) -> Dataset:
    """Reads the first sequences of `data.eval_split` of a stream into memory, as a validation split."""
    _check_stream(spec)
    [entry] = source_entries(spec.data)
    tokenizer = known.input_tokenizer
    tokens, fingerprint = _validation_tokens(spec, tokenizer)
    rows = TokenWindows(tokens, spec.task.bind(known).row_lengths["tokens"], keep_tail=True)
    return Dataset(
        known, spec.model_vocab_size(tokenizer), None, rows, (Group(source_label(entry), 0),), fingerprint, 0, ()
    )


def _validation_tokens(spec: DatasetSpec, tokenizer: Tokenizer) -> tuple[np.ndarray, str]:
    """Reads the first `eval.num_batches` batches of `data.eval_split`; returns tokens and the fingerprint of the stream."""
    [entry] = source_entries(spec.data)
    source, columns = source_spec(entry, spec.task.fields)
    task = spec.task.bind(NONE)
    assert spec.data.eval_split is not None, "_check_stream refuses a stream without it"
    stream, length = open_stream(source, spec.data.eval_split), task.row_lengths["tokens"]

    def prepare(fields: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        example = task.prepare({name: fields[column] for name, column in columns.items()}, tokenizer)
        check_example(task.prepare, example)
        return example

    num_tokens = spec.num_eval_batches * spec.global_batch_size * length + 1
    return head_tokens(stream, prepare, tokenizer.eos_id, num_tokens), stream.fingerprint


def streamed(spec: DatasetSpec, known: Vocabularies) -> Dataset:
    """Opens a stream for training and reads the first sequences of its validation split into memory."""
    _check_stream(spec)
    [entry] = source_entries(spec.data)
    source, columns = source_spec(entry, spec.task.fields)
    known = with_named_files(spec, known)
    name = spec.data.tokenizer
    tokenizer = known.tokenizer or make_tokenizer(name, (), spec.task.special_tokens, known.files.texts.get(name))
    shuffle = {"seed": spec.seed, "shuffle": spec.data.shuffle, "shuffle_buffer": spec.data.shuffle_buffer}
    stream = open_stream(source, spec.data.split or "train", **shuffle)
    if not stream.exact:
        print_status(stream.inexact_reason)
    tokens, _ = _validation_tokens(spec, tokenizer)
    return Dataset(
        Vocabularies(tokenizer, files=known.files, other_eos_ids=known.other_eos_ids),
        spec.model_vocab_size(tokenizer),
        None,
        TokenWindows(tokens, spec.task.bind(NONE).row_lengths["tokens"], keep_tail=True),
        (Group(source_label(entry), 0),),
        stream.fingerprint,
        0,
        (
            f"{source_label(entry)}: a stream, resumed {'exactly' if stream.exact else 'inexactly'}, "
            f"{quantity(len(tokens))} tokens for validation, {tokenizer.describe()}",
        ),
        stream,
        columns,
    )


def _check_stream(spec: DatasetSpec) -> None:
    """Raises UserError for settings that a stream does not support, with the fix."""
    kind = spec.data.tokenizer.partition(":")[0]
    trained = kind in ("char", "bpe", "wordpiece", "unigram")
    prepare = "prepare the data with data.source=hf"
    reads_windows = "cut" in spec.task.packings
    for is_wrong, setting, fix in (
        (
            not reads_windows,
            f"task={spec.task.name}",
            f"with these settings it reads whole examples, which a stream does not provide; {prepare}",
        ),
        (spec.data.eval_split is None, "no data.eval_split", "name the split to evaluate on"),
        (spec.num_eval_batches < 1, "eval.num_batches=0", "set the number of validation batches to keep in memory"),
        (spec.counts_epochs, "total_epochs", "a stream has no known end: use total_steps or total_tokens"),
        (spec.packing != "cut", f"data.packing={spec.packing}", f"choose cut, or {prepare}"),
        (spec.data.cleaning != (), "data.cleaning", f"clean it beforehand, or {prepare}"),
        (
            trained,
            f"data.tokenizer={spec.data.tokenizer}",
            "a stream cannot train one: choose byte, hf:NAME or FILE.json",
        ),
    ):
        if is_wrong:
            raise UserError(f"data.source=hf_stream with {setting}: {fix}.")
