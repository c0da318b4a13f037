"""Data that is read as it comes, without a cache: files of tokens, and streams of records."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxdp.data.reading.sources import check_keys
from jaxdp.data.reading.stream_source import open_stream
from jaxdp.data.sequences.tokens_file import (
    CheckedWindows,
    fingerprint_tokens,
    open_token_splits,
    open_tokens,
)
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.data.stream import head_tokens
from jaxdp.data.tokenizers import Tokenizer, make_tokenizer
from jaxdp.errors import UserError
from jaxdp.experiment.dataset import Data, Group
from jaxdp.experiment.sources import source_entries, source_label, source_spec
from jaxdp.experiment.tokenizing import with_named_files
from jaxdp.experiment.vocabularies import NONE, Vocabularies
from jaxdp.report.terminal import memory_size, print_status, quantity
from jaxdp.training.parts import make_task, model_vocab_size, packing


def ready_tokens(config: ConfigDict) -> Data:
    [entry] = source_entries(config)
    check_keys(source_spec(config, entry)[0])
    if config.data.eval_selection != "tail":
        raise UserError(
            f"data.eval_selection={config.data.eval_selection} holds out records, which data.source=tokens does not "
            "know: set tail, or write two files, train.bin and val.bin."
        )
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
        NONE,
        vocab_size,
        train,
        evaluation,
        (Group(os.path.basename(os.path.normpath(config.data.path)), train.num_rows),),
        fingerprint_tokens(files),
        0,
        (
            f"tokens: {quantity(len(files[0].tokens))} to train on, {quantity(len(files[1].tokens))} held out "
            f"({memory_size(sum(file.tokens.nbytes for file in files))})",
        ),
    )


def evaluation_tokens(config: ConfigDict) -> Data:
    """Opens the tokens of `data.eval_path`, a `.bin` file, to evaluate on."""
    if not config.data.eval_path:
        raise UserError("data.source=tokens is evaluated on one .bin file: set data.eval_path.")
    file, vocab_size = open_tokens(os.path.expanduser(config.data.eval_path), "data.eval_path"), config.model.vocab_size
    rows = CheckedWindows(TokenWindows(file.tokens, config.data.length, keep_tail=True), file, vocab_size)
    group = Group(os.path.basename(file.path), 0)
    return Data(NONE, vocab_size, None, rows, (group,), fingerprint_tokens([file]), 0, ())


def evaluation_stream(config: ConfigDict, known: Vocabularies) -> Data:
    """Reads the first rows of `data.eval_split` of a stream into memory, to evaluate on."""
    _check_stream(config)
    [entry] = source_entries(config)
    tokens, fingerprint = _held_out_tokens(config, known.tokenizer)
    rows = TokenWindows(tokens, make_task(config).row_lengths["tokens"], keep_tail=True)
    return Data(known, model_vocab_size(config, known.tokenizer), None, rows, (Group(source_label(entry), 0),), fingerprint, 0, ())


def _held_out_tokens(config: ConfigDict, tokenizer: Tokenizer) -> tuple[np.ndarray, str]:
    """The first `eval.num_batches` batches of `data.eval_split`, and the fingerprint of the stream."""
    [entry] = source_entries(config)
    spec, columns = source_spec(config, entry)
    task = make_task(config)
    held_out, length = open_stream(spec, config.data.eval_split), task.row_lengths["tokens"]

    def prepare(fields: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        return task.prepare({name: fields[column] for name, column in columns.items()}, tokenizer)

    num_tokens = config.eval.num_batches * config.global_batch_size * length + 1
    return head_tokens(held_out, prepare, tokenizer.eos_id, num_tokens), held_out.fingerprint


def streamed(config: ConfigDict, known: Vocabularies) -> Data:
    """A stream to train on, and the first rows of its held-out split in memory."""
    _check_stream(config)
    [entry] = source_entries(config)
    spec, columns = source_spec(config, entry)
    task = make_task(config)
    known = with_named_files(config, known)
    name = config.data.tokenizer
    tokenizer = known.tokenizer or make_tokenizer(name, (), task.special_tokens, known.files.texts.get(name))
    shuffle = {"seed": config.seed, "shuffle": config.data.shuffle, "shuffle_buffer": config.data.shuffle_buffer}
    stream = open_stream(spec, config.data.split or "train", **shuffle)
    if not stream.exact:
        print_status(stream.inexact_reason)
    tokens, _ = _held_out_tokens(config, tokenizer)
    return Data(
        Vocabularies(tokenizer, files=known.files),
        model_vocab_size(config, tokenizer),
        None,
        TokenWindows(tokens, task.row_lengths["tokens"], keep_tail=True),
        (Group(source_label(entry), 0),),
        stream.fingerprint,
        0,
        (
            f"{source_label(entry)}: a stream, resumed {'exactly' if stream.exact else 'inexactly'}, "
            f"{quantity(len(tokens))} tokens held out, {tokenizer.describe()}",
        ),
        stream,
        columns,
    )


def _check_stream(config: ConfigDict) -> None:
    """Refuses what a stream cannot do, with what can."""
    kind = config.data.tokenizer.partition(":")[0]
    trained = kind in ("char", "bpe", "wordpiece", "unigram")
    prepare = "prepare the data with data.source=hf"
    reads_windows = "cut" in make_task(config).packings
    for wrong, what, cure in (
        (not reads_windows, f"task={config.task}", f"as it is set it reads whole examples, which no stream gives; {prepare}"),
        (config.data.eval_split is None, "no data.eval_split", "name the split to evaluate on"),
        (config.eval.num_batches < 1, "eval.num_batches=0", "set how many batches to hold out in memory"),
        (config.total_epochs is not None, "total_epochs", "a stream has no known end: use total_steps or total_tokens"),
        (packing(config) != "cut", f"data.packing={packing(config)}", f"choose cut, or {prepare}"),
        (config.data.cleaning != (), "data.cleaning", f"clean it beforehand, or {prepare}"),
        (trained, f"data.tokenizer={config.data.tokenizer}", "a stream cannot train one: choose byte, hf:NAME or FILE.json"),
    ):
        if wrong:
            raise UserError(f"data.source=hf_stream with {what}: {cure}.")
