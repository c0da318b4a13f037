"""Dataset assembly: scans the sources of a configuration, builds tokenizers, tokenizes text into the cache, opens both splits.

It needs neither a JAX backend nor the other processes of the run.
"""

from collections.abc import Mapping, Sequence

from jaxdp.data.cache_keys import cleaning_identity, digest
from jaxdp.data.dataset import Dataset, DatasetSpec, Group
from jaxdp.data.direct_sources import (
    evaluation_stream,
    evaluation_tokens,
    ready_tokens,
    streamed,
)
from jaxdp.data.pipeline import SequenceDataset
from jaxdp.data.preparing.cache import discard
from jaxdp.data.preparing.scan import DataChanged
from jaxdp.data.samplers.mixture import ConcatenatedSequences
from jaxdp.data.sequences.make import check_packing, make_rows, scored_pairs
from jaxdp.data.source_entries import Source, open_evaluation_source, open_sources
from jaxdp.data.summary import label_lines, scored_lines, source_lines
from jaxdp.data.tokenization import (
    SPLITS,
    check_tokenizers,
    make_vocabularies,
    prepare_source,
    with_named_files,
)
from jaxdp.data.vocabularies import NONE, Vocabularies


def load_dataset(spec: DatasetSpec, known: Vocabularies = NONE) -> Dataset:
    """Opens both splits, prepared now if they are not in the cache.

    Args:
        spec: Specification of the dataset.
        known: Tokenizers and labels that the run has already.

    Raises:
        UserError: The data or the keys that describe it are wrong.
    """
    check_packing(spec)
    check_tokenizers(spec)
    if not spec.has_texts:
        return ready_tokens(spec)
    if spec.is_stream:
        return streamed(spec, known)
    known = with_named_files(spec, known)
    spec = spec.with_word_lists(known.files)
    sources = open_sources(spec)
    try:
        return _prepared(spec, known, sources)
    except DataChanged:
        for source in sources:
            discard(source.scan_entry)  # the scan itself may be wrong: the next start scans again
        raise


def load_evaluation_dataset(spec: DatasetSpec, known: Vocabularies) -> Dataset:
    """Prepares and opens a validation split without training data.

    Args:
        spec: Specification of the dataset; see `open_evaluation_source`.
        known: Tokenizers and labels of the run.

    Returns:
        Dataset whose `train` is None.

    Raises:
        UserError: The data or the keys that describe it are wrong, e.g. a label that the run does not know.
    """
    check_packing(spec)
    if spec.data.source == "tokens":
        return evaluation_tokens(spec)
    if spec.data.source == "hf_stream":
        return evaluation_stream(spec, known)
    known = with_named_files(spec, known)
    spec = spec.with_word_lists(known.files)
    source = open_evaluation_source(spec)
    try:
        prepared = prepare_source(spec, source, known, ("eval",))
        task = spec.task.bind(known)
        pairs = scored_pairs(spec, task, [source], [prepared])
    except DataChanged:
        discard(source.scan_entry)
        raise
    return Dataset(
        known, spec.model_vocab_size(known.input_tokenizer), None, make_rows(spec, task, prepared["eval"]),
        (Group(source.label, 0),), source.scan.fingerprint, source.scan.num_characters, (), pairs=pairs,
    )  # fmt: skip


def _prepared(spec: DatasetSpec, known: Vocabularies, sources: Sequence[Source]) -> Dataset:
    """Tokenizes scanned sources and builds the sequences of both splits."""
    vocabularies = make_vocabularies(spec, sources, known)
    vocab_size = spec.model_vocab_size(vocabularies.input_tokenizer)
    prepared = [prepare_source(spec, source, vocabularies) for source in sources]
    task = spec.task.bind(vocabularies)
    rows = {
        split: {
            source.label: make_rows(spec, task, splits[split]) for source, splits in zip(sources, prepared, strict=True)
        }
        for split in SPLITS
    }
    pairs = scored_pairs(spec, task, sources, prepared)
    fingerprint = sources[0].scan.fingerprint
    if len(sources) > 1:
        fingerprint = digest([source.scan.fingerprint for source in sources])
    return Dataset(
        vocabularies,
        vocab_size,
        _joined(rows["train"]),
        _joined(rows["eval"]),
        tuple(Group(source.label, rows["train"][source.label].num_rows, source.weight) for source in sources),
        fingerprint,
        sum(source.scan.num_characters for source in sources),
        (
            *source_lines(task, sources, prepared, rows, vocabularies),
            *label_lines(vocabularies.labels, prepared, can_stratify=_can_stratify(spec, sources)),
            *scored_lines(task, pairs),
        ),
        pairs=pairs,
        cleaning=cleaning_identity(spec.data),
    )


def _can_stratify(spec: DatasetSpec, sources: Sequence[Source]) -> bool:
    """Returns whether `data.eval_selection=stratified` would change the validation split."""
    return spec.data.eval_selection != "stratified" and any(source.evaluation is None for source in sources)


def _joined(rows: Mapping[str, SequenceDataset]) -> SequenceDataset:
    return next(iter(rows.values())) if len(rows) == 1 else ConcatenatedSequences(rows)
