"""Sequence-to-sequence task: predict a target text from a source text, e.g. translation."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.errors import UserError
from jaxdp.tasks.empty_texts import cure, reason
from jaxdp.tasks.losses import ACCURACY, PERPLEXITY, perplexity, token_loss_sums
from jaxdp.tasks.task import Apply, LossSums, Summary, Task, TaskInputs
from jaxdp.tasks.translation_scores import SCORE_METRICS, check_tokenization, score_texts
from jaxdp.typing import HostBatch, PyTree

_PACKED = ("segment_ids", "positions", "target_segment_ids", "target_positions")
"""Arrays of packed sequences in addition to their tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seq2SeqOptions:
    """Keys of `config.seq2seq`.

    Attributes:
        start_id: Id of the first token that the decoder reads; None: the end of the text.
        bleu_tokenize: name of sacrebleu's tokenization for BLEU: 13a, intl, zh, ...

    Raises:
        UserError: `start_id` is negative, or sacrebleu has no such tokenization.
    """

    start_id: int | None = None
    bleu_tokenize: str

    def __post_init__(self):
        if self.start_id is not None and self.start_id < 0:
            raise UserError(f"seq2seq.start_id={self.start_id} must be at least 0: it is the id of a token.")
        check_tokenization(self.bleu_tokenize)


class Seq2Seq(Task):
    """Prediction of a target sequence from a source sequence, one pair or several packed pairs a sequence.

    Source and target both end with the eos token. The decoder input is the target
    shifted by one, with the eos token or `seq2seq.start_id` first; generation starts from the same token.
    """

    fields = ("source", "target")
    eos_fields = ("tokens", "target_tokens")
    packings = ("none", "documents")
    architectures = ("encoder_decoder",)
    generated_field = "target_tokens"
    predict_fields = ("source",)
    metrics = (PERPLEXITY, ACCURACY)
    score_metrics = SCORE_METRICS

    def __init__(self, inputs: TaskInputs):
        self._options = Seq2SeqOptions(**inputs.options)
        self._length = inputs.length
        self._target_length = self.num_predicted = inputs.target_length or inputs.length
        self._packed = inputs.packing == "documents"
        self._label_smoothing, self._z_loss = inputs.label_smoothing, inputs.z_loss
        self.row_lengths = {"tokens": self._length, "target_tokens": self._target_length}
        self.model_options = {"head": "language_model", "max_target_length": self._target_length}
        self._target_tokenizer = inputs.target_tokenizer or inputs.tokenizer
        if inputs.target_tokenizer is not None:
            self.model_options["target_vocab_size"] = inputs.target_tokenizer.vocab_size

    @property
    def start_id(self) -> int:
        """Id of the first decoder input: `seq2seq.start_id`, or the eos token."""
        return self._target_tokenizer.eos_id if self._options.start_id is None else self._options.start_id

    def prepare(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """Returns {"tokens", "target_tokens": [num_tokens] int32} of {"source", "target"}.

        Raises:
            UserError: The source or the target is empty.
        """
        if not record["target"]:
            raise UserError(f"{reason('target', '')}; {cure('')}.")
        if not record["source"]:
            raise UserError(f"{reason('source', '')}; {cure('')}.")
        _, target_tokenizer = _both(tokenizer)
        return self.prepare_for_predict(record, tokenizer) | {
            "target_tokens": target_tokenizer.encode(record["target"])
        }

    def prepare_for_predict(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """Returns {"tokens": [num_tokens] int32} of {"source"}, without the eos token.

        Raises:
            UserError: The source is empty.
        """
        if not record["source"]:
            raise UserError(f"{reason('source', '')}.")
        return {"tokens": _both(tokenizer)[0].encode(record["source"])}

    def make_batch(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Builds encoder and decoder inputs, targets and weights, without randomness.

        Args:
            examples: single pairs: {"tokens": [rows, length], "target_tokens": [rows,
                target_length], "num_tokens", "num_target_tokens": [rows]} int32; a row
                with `num_tokens` 0 is padding. Packed ones: {"tokens", "segment_ids",
                "positions": [rows, length], "target_tokens" (decoder inputs),
                "targets", "target_segment_ids", "target_positions": [rows,
                target_length], "num_tokens", "num_target_tokens": [rows]} int32.
            seed: unused.
            step: unused.
            row_ids: unused.
        """
        num_tokens = examples["num_tokens"]
        num_targets = examples["num_target_tokens"] * (num_tokens > 0)
        valid = np.arange(self._target_length) < num_targets[:, None]
        batch = {
            "tokens": examples["tokens"],
            "attention_mask": np.arange(self._length) < num_tokens[:, None],
            "loss_weights": valid.astype(np.float32),
        }
        if self._packed:
            return batch | {name: examples[name] for name in ("target_tokens", "targets", *_PACKED)}
        targets = examples["target_tokens"]
        read = np.concatenate([np.full((len(targets), 1), self.start_id, np.int32), targets[:, :-1]], axis=1)
        return batch | {"target_tokens": np.where(valid, read, 0), "targets": targets}

    def make_predict_batch(self, examples: HostBatch) -> dict[str, np.ndarray]:
        """Builds the inputs of decoding.

        Returns:
            {"source_tokens" int32, "source_mask" bool: [rows, length], "tokens" int32,
            "prompt_mask" bool: [rows, 1]}.
        """
        is_read = np.arange(self._length) < examples["num_tokens"][:, None]
        start = np.full((len(is_read), 1), self.start_id, np.int32)
        return {
            "source_tokens": examples["tokens"],
            "source_mask": is_read,
            "tokens": start,
            "prompt_mask": np.ones(start.shape, bool),
        }

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch.

        {"tokens" int32, "attention_mask" bool: [rows, length]}, {"target_tokens",
        "targets" int32, "loss_weights" float32: [rows, target_length]}; packed pairs
        have {"segment_ids", "positions": [rows, length], "target_segment_ids",
        "target_positions": [rows, target_length]} int32 too.
        """
        source, target = (rows, self._length), (rows, self._target_length)
        spec = {
            "tokens": jax.ShapeDtypeStruct(source, jnp.int32),
            "attention_mask": jax.ShapeDtypeStruct(source, jnp.bool_),
            "target_tokens": jax.ShapeDtypeStruct(target, jnp.int32),
            "targets": jax.ShapeDtypeStruct(target, jnp.int32),
            "loss_weights": jax.ShapeDtypeStruct(target, jnp.float32),
        }
        for name in _PACKED if self._packed else ():
            shape = target if name.startswith("target") else source
            spec[name] = jax.ShapeDtypeStruct(shape, jnp.int32)
        return spec

    def loss(self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool) -> LossSums:
        """Sums the cross-entropy of target tokens under teacher forcing.

        Padding is at the end of a target, where causality hides it.
        """
        layer = self._run(apply, params, batch, row_keys=row_keys, method="output_layer")
        read = jnp.sum(batch["loss_weights"]) + jnp.sum(batch["attention_mask"].astype(jnp.float32))
        return token_loss_sums(
            layer, batch, read, train=train, label_smoothing=self._label_smoothing, z_loss=self._z_loss
        )

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """Returns {"logits": [rows, target_length, vocab_size] float32}."""
        return {"logits": self._run(apply, params, batch)}

    def _run(self, apply: Apply, params: PyTree, batch: PyTree, **options) -> Any:
        packed = {name: batch[name] for name in _PACKED} if self._packed else {}
        return apply(
            params,
            batch["tokens"],
            attention_mask=batch["attention_mask"],
            target_tokens=batch["target_tokens"],
            **packed,
            **options,
        )

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Returns the perplexity of a target token, e to the mean cross-entropy in nats."""
        return {"perplexity": perplexity(means["loss"])}

    def score(self, texts: Sequence[str], references: Sequence[str]) -> Summary:
        """Computes BLEU, chrF and exact matches; see `jaxdp.tasks.translation_scores`."""
        return score_texts(texts, references, self._options.bleu_tokenize)


def _both(tokenizer) -> tuple[Any, Any]:
    """Returns (source tokenizer, target tokenizer) of a pair or of one tokenizer for both."""
    return tokenizer if isinstance(tokenizer, tuple) else (tokenizer, tokenizer)
