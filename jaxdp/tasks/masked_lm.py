"""Masked language modelling task: prediction of masked tokens (BERT)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.errors import UserError
from jaxdp.tasks.framing import BERT_FRAME, CLASS, MASK, ROBERTA_FRAME, SEPARATOR, encoder_frame, frame
from jaxdp.tasks.losses import ACCURACY, PERPLEXITY, perplexity, token_loss_sums
from jaxdp.tasks.masking import Masked, mask_tokens, max_masked
from jaxdp.tasks.task import Apply, LossSums, Task, TaskInputs
from jaxdp.typing import HostBatch, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLMOptions:
    """Keys of `config.masked_lm`.

    Attributes:
        mask_rate: share of the text tokens to mask.
        whole_words: whether to mask whole words instead of tokens.
        num_candidates: number of predicted tokens for each mask in `jaxdp predict`.

    Raises:
        UserError: A value is out of its range.
    """

    mask_rate: float
    whole_words: bool
    num_candidates: int

    def __post_init__(self):
        if not 0 < self.mask_rate <= 1:
            raise UserError(
                f"masked_lm.mask_rate is {self.mask_rate}; expected a share above 0 and at most 1, such as 0.15."
            )
        if self.num_candidates < 1:
            raise UserError(f"masked_lm.num_candidates is {self.num_candidates}; expected 1 or more.")


class MaskedLM(Task):
    """Prediction of masked tokens in `[CLS]`, text, `[SEP]`: a window of the corpus, or the start of a document.

    A tokenizer that names them `<s>`, `</s>` and `<mask>`, as that of RoBERTa, keeps its names.

    Every step masks other tokens; evaluation always masks as at step 0, so that its
    results are comparable.
    """

    fields = ("text",)
    eos_fields = ("tokens",)
    packings = ("cut", "none")
    special_tokens = (CLASS, SEPARATOR, MASK)
    architectures = ("encoder",)
    metrics = (PERPLEXITY, ACCURACY)
    predict_fields = ("text",)
    prediction_names = ("candidates",)
    protected_strings = (MASK, ROBERTA_FRAME.mask)

    def __init__(self, inputs: TaskInputs):
        self._options = MaskedLMOptions(**inputs.options)
        self.model_options = {"head": "masked_lm"}
        self._label_smoothing, self._z_loss = inputs.label_smoothing, inputs.z_loss
        self._length = inputs.length
        self._num_text = inputs.length - 2
        if self._num_text < 1:
            raise UserError(f"data.length={inputs.length} is too short; expected at least 3: [CLS], a token and [SEP].")
        self._max_masked = self.num_predicted = max_masked(self._num_text, self._options.mask_rate)
        # Sequences have one extra token: the first of the next window, or the eos token of the document.
        self._is_document = inputs.packing == "none"
        self.row_lengths = {"tokens": self._num_text + self._is_document}
        self._tokenizer, self._frame = inputs.tokenizer, BERT_FRAME
        if inputs.tokenizer is not None:
            self._read_vocabulary(inputs.tokenizer)

    def _read_vocabulary(self, tokenizer) -> None:
        self._end_id = tokenizer.eos_id
        self._frame = encoder_frame(tokenizer.special_ids) or BERT_FRAME
        self._class_id, self._separator_id, self._mask_id = map(tokenizer.special_id, self._frame[:3])
        self._is_special = np.zeros(tokenizer.vocab_size, bool)
        self._is_special[list(tokenizer.special_ids.values())] = True
        self._ordinary_ids = np.flatnonzero(~self._is_special).astype(np.int32)
        self._boundaries = tokenizer.word_boundaries() if self._options.whole_words else None
        if self._options.whole_words and self._boundaries is None:
            raise UserError(
                "masked_lm.whole_words needs a tokenizer with word boundaries: set "
                "data.tokenizer to bpe:N or wordpiece:N, or masked_lm.whole_words to False."
            )

    def prepare(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """Returns {"tokens": [num_tokens] int32} of {"text"}."""
        return {"tokens": tokenizer.encode(record["text"])}

    def make_batch(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Masks the sequences and returns inputs, positions and targets; see `batch_spec`.

        Args:
            examples: {"tokens": [rows, length - 1] int32, "num_tokens": [rows] int32}:
                windows that end with the first token of the next one, or documents with
                their eos token.
            seed: seed of the run.
            step: step of the batch.
            row_ids: [rows] int32, indices of the examples in the global batch.
        """
        tokens, is_read = self._framed(examples)
        masked = mask_tokens(
            tokens,
            is_read & ~self._is_special[tokens],
            self._starts_word(tokens),
            rate=self._options.mask_rate,
            max_targets=self._max_masked,
            mask_id=self._mask_id,
            ordinary_ids=self._ordinary_ids,
            seed=seed,
            step=step,
            row_ids=row_ids,
        )
        return _batch(masked, is_read)

    def _starts_word(self, tokens: np.ndarray) -> np.ndarray | None:
        """Returns the positions at which words begin, `[rows, length] bool`; None if tokens are masked individually."""
        if self._boundaries is None:
            return None
        begins, ends = self._boundaries.T
        starts = begins[tokens]
        starts[:, 1:] |= ends[tokens[:, :-1]]
        return starts

    def _framed(self, examples: HostBatch) -> tuple[np.ndarray, np.ndarray]:
        """Returns [CLS], text, [SEP] and padding `[rows, length] int32`, and the attention mask `bool`."""
        tokens, num_tokens = examples["tokens"], examples["num_tokens"]
        if self._is_document:  # [SEP] replaces the eos token, unless that was cut off
            last = np.take_along_axis(tokens, np.maximum(num_tokens - 1, 0)[:, None], 1)[:, 0]
            num_text = num_tokens - ((last == self._end_id) & (num_tokens > 0))
        else:
            num_text = num_tokens
        return frame(
            tokens[:, : self._num_text],
            np.minimum(num_text, self._num_text),
            num_tokens > 0,
            (self._class_id,),
            (self._separator_id,),
        )

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch.

        {"tokens" int32, "attention_mask" bool: [rows, length]}, {"predict_at", "targets"
        int32, "loss_weights" float32: [rows, max_targets]}.
        """
        read, predicted = (rows, self._length), (rows, self._max_masked)
        return {
            "tokens": jax.ShapeDtypeStruct(read, jnp.int32),
            "attention_mask": jax.ShapeDtypeStruct(read, jnp.bool_),
            "predict_at": jax.ShapeDtypeStruct(predicted, jnp.int32),
            "targets": jax.ShapeDtypeStruct(predicted, jnp.int32),
            "loss_weights": jax.ShapeDtypeStruct(predicted, jnp.float32),
        }

    def loss(self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool) -> LossSums:
        """Sums the cross-entropy of the masked tokens; in evaluation without regularisers, with metrics."""
        layer = _run(apply, params, batch, row_keys=row_keys, method="output_layer")
        read = jnp.sum(batch["attention_mask"].astype(jnp.float32))
        return token_loss_sums(
            layer, batch, read, train=train, label_smoothing=self._label_smoothing, z_loss=self._z_loss
        )

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Returns the perplexity of a masked token, e to the mean cross-entropy in nats."""
        return {"perplexity": perplexity(means["loss"])}

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """Returns the most probable tokens for every mask, best first.

        Returns:
            {"candidates" int32 token ids, "probabilities" float32: [rows, max_targets,
            num_candidates], "weights": [rows, max_targets] float32, 0 for padding}.
        """
        probabilities = jax.nn.softmax(_run(apply, params, batch), axis=-1)
        best, ids = jax.lax.top_k(probabilities, min(self._options.num_candidates, probabilities.shape[-1]))
        return {"candidates": ids, "probabilities": best, "weights": batch["loss_weights"]}

    def prepare_for_predict(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """Returns {"tokens": [num_tokens] int32} of {"text"} with a `[MASK]`, or the tokenizer's own mask, for each token to predict.

        Raises:
            UserError: The text has no mask, or too many, or too many tokens.
        """
        mask = self._frame.mask
        pieces = record["text"].replace(MASK, mask).split(mask)
        if self._frame.mask_takes_blank:
            pieces = [*(piece.rstrip() for piece in pieces[:-1]), pieces[-1]]
        if not 0 < len(pieces) - 1 <= self._max_masked:
            raise UserError(
                f"the text has {len(pieces) - 1} times {mask}, expected 1 to {self._max_masked}: write {mask} where "
                "a token is to be predicted, and cut a text with too many."
            )
        tokens = tokenizer.encode(pieces[0])
        for piece in pieces[1:]:
            tokens = np.concatenate([tokens, [np.int32(self._mask_id)], tokenizer.encode(piece)])
        if len(tokens) > self._num_text:
            raise UserError(
                f"the text has {len(tokens)} tokens, expected at most {self._num_text} (data.length - 2): cut it."
            )
        return {"tokens": tokens}

    def make_predict_batch(self, examples: HostBatch) -> dict[str, np.ndarray]:
        """Builds a batch that predicts the masks; its targets are the masks themselves."""
        tokens, is_read = self._framed(examples)
        is_mask = (tokens == self._mask_id) & is_read
        order = np.argsort(~is_mask, axis=1, kind="stable")[:, : self._max_masked]
        is_target = np.take_along_axis(is_mask, order, 1)
        positions = np.where(is_target, order, 0).astype(np.int32)
        targets = np.where(is_target, self._mask_id, 0).astype(np.int32)
        return _batch(Masked(tokens, positions, targets, is_target), is_read)

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"candidates": for each mask [{"token", "probability"}, ...], best first} for each row."""
        return [
            {
                "candidates": [
                    [
                        {"token": self._tokenizer.decode([token]), "probability": float(probability)}
                        for token, probability in zip(tokens.tolist(), probabilities, strict=True)
                    ]
                    for tokens, probabilities in zip(ids[weights > 0], best[weights > 0], strict=True)
                ]
            }
            for ids, best, weights in zip(
                outputs["candidates"], outputs["probabilities"], outputs["weights"], strict=True
            )
        ]


def _run(apply: Apply, params: PyTree, batch: PyTree, **options) -> Any:
    """Runs the model for the masked positions: their logits `[rows, max_targets, vocab_size] float32`, or its `method`."""
    return apply(
        params,
        batch["tokens"],
        attention_mask=batch["attention_mask"],
        predict_at=batch["predict_at"],
        **options,
    )


def _batch(masked: Masked, is_read: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "tokens": masked.tokens,
        "attention_mask": is_read,
        "predict_at": masked.positions,
        "targets": masked.targets,
        "loss_weights": masked.is_target.astype(np.float32),
    }
