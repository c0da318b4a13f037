"""Sequence construction from tokenized examples: windows, packed documents or padded examples (`data.packing`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdp.data.cache_keys import plan_entry
from jaxdp.data.dataset import BoundTask, DatasetSpec, Pairs
from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.preparing.cache import cached
from jaxdp.data.preparing.examples import Examples
from jaxdp.data.sequences.long_documents import find_long, skips_before_learned
from jaxdp.data.sequences.packed_pairs import PackedPairs, pack_pairs
from jaxdp.data.sequences.packing import PackedSequences, PackPlan, pack
from jaxdp.data.sequences.padded import PaddedSequences
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.data.source_entries import Source
from jaxdp.data.tokenization import Prepared, validation_texts
from jaxdp.errors import UserError
from jaxdp.nearest import closest
from jaxdp.quoting import quoted_names
from jaxdp.report.terminal import print_status
from jaxdp.signatures import defined_in


def check_packing(spec: DatasetSpec) -> None:
    """Raises UserError if the task cannot read the sequences of this packing."""
    packing, readable = spec.packing, spec.task.packings
    if packing not in _PACKINGS:
        raise UserError(f"data.packing={spec.data.packing!r} is unknown; choose one of: {', '.join(_PACKINGS)}.")
    if not spec.has_texts and (spec.task.special_tokens or "cut" not in readable):
        raise UserError(
            f"data.source=tokens has neither texts nor a tokenizer, which task={spec.task.name!r} needs with these settings: read "
            "the original texts instead, e.g. with data.source=text."
        )
    if packing not in readable:
        raise UserError(
            f"data.packing={spec.data.packing!r} does not serve task={spec.task.name!r}; choose {' or '.join(readable)}."
        )
    if not spec.has_texts and packing != "cut":
        raise UserError(f"data.packing={packing!r} needs documents, but data.source=tokens has none; choose cut.")


def make_rows(spec: DatasetSpec, task: BoundTask, prepared: Prepared) -> SequenceDataset:
    """Builds the sequences of one split.

    Raises:
        UserError: The task did not prepare the arrays that it declares lengths of.
    """
    _check_arrays(spec, task, prepared.examples)
    return _PACKINGS[spec.packing](spec, task, prepared)


def _check_arrays(spec: DatasetSpec, task: BoundTask, examples: Examples) -> None:
    """Raises UserError unless the ragged arrays of the examples are those of `row_lengths`."""
    found = {name for name in examples.names if examples.is_ragged(name)}
    what = f"task={spec.task.name!r}: prepare{defined_in(task.prepare)}"
    for name in task.row_lengths:
        if name not in found:
            match = closest(name, found - task.row_lengths.keys())
            raise UserError(
                f"{what} returns no array {name!r}, which row_lengths has a length of"
                f"{f'; did you mean {match!r}?' if match else f'; it returns {quoted_names(list(examples.names))}.'}"
            )
    for name in found - task.row_lengths.keys() if spec.packing == "none" else ():
        raise UserError(
            f"{what} returns the array {name!r}, which row_lengths has no length of: add it to row_lengths, with its "
            "largest number of tokens."
        )


def _cut(spec: DatasetSpec, task: BoundTask, prepared: Prepared) -> TokenWindows:
    tokens = prepared.examples.flat("tokens")
    # The eos token separates documents; after the last one it has no purpose.
    return TokenWindows(
        tokens, task.row_lengths["tokens"], keep_tail=prepared.split == "eval", num_tokens=len(tokens) - 1
    )


def _documents(spec: DatasetSpec, task: BoundTask, prepared: Prepared) -> PackedSequences | PackedPairs:
    examples = prepared.examples
    if "target_tokens" in examples.names:
        return _packed_pairs(spec, task, examples)
    tokens = examples.ragged("tokens")
    shape = {"length": task.row_lengths["tokens"], "long_documents": spec.data.long_documents}

    def build(directory: Path) -> None:
        # The first target of a sequence is predicted from the token before it, which is not in the sequence.
        skips = _skips(spec, examples, task.row_lengths["tokens"], min_context=0)
        pack(tokens.lengths(), **shape, skips=skips).save(directory)

    plan = cached(plan_entry(spec, prepared.entry, prepared.split, shape), build, print_status)
    per_token = {name: examples.flat(name) for name in task.row_lengths if name != "tokens"}
    return PackedSequences(PackPlan.load(plan, plan), tokens.flat, per_token)


def _packed_pairs(spec: DatasetSpec, task: BoundTask, examples: Examples) -> PackedPairs:
    sources, targets = examples.ragged("tokens"), examples.ragged("target_tokens")
    lengths, long_documents = task.row_lengths, spec.data.long_documents
    is_long = find_long(sources.lengths(), lengths["tokens"], long_documents)
    is_long |= find_long(targets.lengths(), lengths["target_tokens"], long_documents, "data.target_length")
    kept = np.flatnonzero(~is_long) if long_documents == "drop" else None
    if kept is not None and not kept.size:
        raise UserError("data.long_documents=drop leaves no pair: raise data.length and data.target_length.")
    shape = (lengths["tokens"], lengths["target_tokens"])
    plan = pack_pairs(sources.lengths(), targets.lengths(), shape, kept)
    if task.start_id is None:
        raise ValueError("a task that packs pairs has a start_id")
    return PackedPairs(plan, sources, targets, task.start_id)


def _padded(spec: DatasetSpec, task: BoundTask, prepared: Prepared) -> PaddedSequences:
    examples = prepared.examples
    lengths = {name: task.row_lengths[name] for name in examples.names if examples.is_ragged(name)}
    arrays = {name: examples.ragged(name) if name in lengths else examples.scalars(name) for name in examples.names}
    # The first target of a sequence is predicted from its first token.
    skips = _skips(spec, examples, lengths["tokens"], min_context=1)
    return PaddedSequences(arrays, lengths, spec.data.long_documents, skips)


def _skips(spec: DatasetSpec, examples: Examples, length: int, min_context: int) -> np.ndarray | None:
    """Returns the number of tokens to skip at the start of each long example, so that its learned tokens stay; None if there are none."""
    if "loss_mask" not in examples.names or spec.data.long_documents != "cut":
        return None
    return skips_before_learned(examples.ragged("loss_mask"), length, min_context)


_PACKINGS = {"cut": _cut, "documents": _documents, "none": _padded}

PACKINGS = tuple(_PACKINGS)
"""Values of `data.packing`."""


def scored_pairs(
    spec: DatasetSpec, task: BoundTask, sources: Sequence[Source], prepared: Sequence[Mapping[str, Prepared]]
) -> Pairs | None:
    """Selects the validation pairs to score, evenly spaced over the split; each source of a mixture contributes its share.

    References are cleaned but not tokenized, so that scores are comparable between tokenizers. Pairs that are too long are
    scored too, with their source cut, whereas `eval/loss` excludes the pairs that `data.long_documents=drop` leaves out.
    """
    if not spec.task.generates_targets or not spec.num_scored:
        return None
    validation = [splits["eval"] for splits in prepared]
    ends = np.cumsum([each.examples.num_examples for each in validation])
    chosen = np.linspace(0, ends[-1] - 1, min(spec.num_scored, ends[-1])).astype(np.int64)
    max_length = task.row_lengths["tokens"]
    texts, references = [], []
    by_source = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    for source, each, end, numbers in zip(sources, validation, ends, by_source, strict=True):
        if numbers.size:
            local = numbers - (end - each.examples.num_examples)
            tokens, lengths = each.examples.ragged("tokens").take(local)
            texts += np.split(tokens.astype(np.int32), np.cumsum(lengths)[:-1])
            references += validation_texts(spec, source, each, "target", local.tolist())
    num_cut = sum(len(text) > max_length for text in texts)
    return Pairs(tuple(text[:max_length] for text in texts), tuple(references), num_cut)
