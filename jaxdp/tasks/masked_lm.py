"""Masked language modelling: guess the tokens that were hidden (BERT)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.errors import UserError
from jaxdp.tasks.framing import CLASS, SEPARATOR, frame
from jaxdp.tasks.losses import ACCURACY, PERPLEXITY, perplexity, token_loss_sums
from jaxdp.tasks.masking import Masked, mask_tokens, most_masked
from jaxdp.tasks.task import Apply, LossSums, Task, TaskInputs
from jaxdp.typing import HostBatch, PyTree

MASK = "[MASK]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLMOptions:
    """The keys of `config.masked_lm`.

    Attributes:
        mask_rate: share of the text to guess.
        whole_words: hide words, not tokens.
        num_candidates: guesses for each hidden token of a request.

    Raises:
        UserError: a value is out of its range.
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
    """Rows are `[CLS]`, text and `[SEP]`: a window of the corpus, or the start of one document.

    Which tokens are hidden is drawn anew for every row at every step; evaluation
    draws as at step 0, so that its numbers can be compared.
    """

    fields = ("text",)
    eos_fields = ("tokens",)
    packings = ("cut", "none")
    special_tokens = (CLASS, SEPARATOR, MASK)
    architectures = ("encoder",)
    metrics = (PERPLEXITY, ACCURACY)
    predict_fields = ("text",)
    prediction_names = ("candidates",)
    protected_strings = (MASK,)

    def __init__(self, inputs: TaskInputs):
        self._options = MaskedLMOptions(**inputs.options)
        self.model_options = {"head": "masked_lm"}
        self._label_smoothing, self._z_loss = inputs.label_smoothing, inputs.z_loss
        self._length = inputs.length
        self._num_text = inputs.length - 2
        if self._num_text < 1:
            raise UserError(f"data.length={inputs.length} is too short: [CLS], a token and [SEP] are 3.")
        self._most = self.num_predicted = most_masked(self._num_text, self._options.mask_rate)
        # One token more is read than used: the next window's first, or the end of a document.
        self._is_document = inputs.packing == "none"
        self.row_lengths = {"tokens": self._num_text + self._is_document}
        self._tokenizer = inputs.tokenizer
        if inputs.tokenizer is not None:
            self._read_vocabulary(inputs.tokenizer)

    def _read_vocabulary(self, tokenizer) -> None:
        self._end_id = tokenizer.eos_id
        self._class_id, self._separator_id, self._mask_id = map(tokenizer.special_id, self.special_tokens)
        self._is_special = np.zeros(tokenizer.vocab_size, bool)
        self._is_special[list(tokenizer.special_ids.values())] = True
        self._ordinary_ids = np.flatnonzero(~self._is_special).astype(np.int32)
        self._boundaries = tokenizer.word_boundaries() if self._options.whole_words else None
        if self._options.whole_words and self._boundaries is None:
            raise UserError(
                "masked_lm.whole_words needs a tokenizer whose tokens tell where words begin and end: set "
                "data.tokenizer to bpe:N or wordpiece:N, or masked_lm.whole_words to False."
            )

    def prepare(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """{"text"} -> {"tokens": [num_tokens] int32}."""
        return {"tokens": tokenizer.encode(record["text"])}

    def make_batch(
        self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Rows -> what the model sees, where it must guess, and what stood there.

        Args:
            examples: {"tokens": [rows, length - 1] int32, "num_tokens": [rows] int32}:
                windows, whose last token is the first of the next one, too; or
                documents with their end of text.
        """
        tokens, is_read = self._framed(examples)
        masked = mask_tokens(
            tokens,
            is_read & ~self._is_special[tokens],
            self._starts_word(tokens),
            rate=self._options.mask_rate,
            most=self._most,
            mask_id=self._mask_id,
            ordinary_ids=self._ordinary_ids,
            seed=seed,
            step=step,
            row_ids=row_ids,
        )
        return _batch(masked, is_read)

    def _starts_word(self, tokens: np.ndarray) -> np.ndarray | None:
        """Where words begin, `[rows, length] bool`; None where every token is hidden by itself."""
        if self._boundaries is None:
            return None
        begins, ends = self._boundaries.T
        starts = begins[tokens]
        starts[:, 1:] |= ends[tokens[:, :-1]]
        return starts

    def _framed(self, examples: HostBatch) -> tuple[np.ndarray, np.ndarray]:
        """[CLS], text, [SEP] and padding `[rows, length] int32`; what is no padding, `bool`."""
        tokens, num_tokens = examples["tokens"], examples["num_tokens"]
        if self._is_document:  # [SEP] takes the place of its end of text, unless that was cut off
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
        """Shapes of a batch.

        {"tokens" int32, "attention_mask" bool: [rows, length]}, and for the most tokens
        that can be hidden {"predict_at", "targets" int32, "loss_weights" float32:
        [rows, most]}.
        """
        read, guessed = (rows, self._length), (rows, self._most)
        return {
            "tokens": jax.ShapeDtypeStruct(read, jnp.int32),
            "attention_mask": jax.ShapeDtypeStruct(read, jnp.bool_),
            "predict_at": jax.ShapeDtypeStruct(guessed, jnp.int32),
            "targets": jax.ShapeDtypeStruct(guessed, jnp.int32),
            "loss_weights": jax.ShapeDtypeStruct(guessed, jnp.float32),
        }

    def loss(
        self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool
    ) -> LossSums:
        """Summed cross-entropy of the hidden tokens; when evaluating, pure and with its metrics."""
        logits = _logits(apply, params, batch, row_keys=row_keys)
        read = jnp.sum(batch["attention_mask"].astype(jnp.float32))
        return token_loss_sums(
            logits, batch, read, train=train, label_smoothing=self._label_smoothing, z_loss=self._z_loss
        )

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Perplexity of a hidden token, e to the mean cross-entropy in nats."""
        return {"perplexity": perplexity(means["loss"])}

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """The best guesses for every hidden token, best first.

        Returns:
            {"candidates" int32 token ids, "probabilities" float32: [rows, most, num_candidates],
            "weights": [rows, most] float32, 0 where nothing is hidden}.
        """
        probabilities = jax.nn.softmax(_logits(apply, params, batch), axis=-1)
        best, ids = jax.lax.top_k(probabilities, min(self._options.num_candidates, probabilities.shape[-1]))
        return {"candidates": ids, "probabilities": best, "weights": batch["loss_weights"]}

    def prepare_for_predict(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """{"text"} in which `[MASK]` stands for each hidden token -> {"tokens": [num_tokens] int32}.

        Raises:
            UserError: nothing is hidden, or more than fits.
        """
        pieces = record["text"].split(MASK)
        if not 0 < len(pieces) - 1 <= self._most:
            raise UserError(
                f"the text has {len(pieces) - 1} times {MASK}, expected 1 to {self._most}: write {MASK} where "
                "the model shall guess a token, and cut a text with too many."
            )
        tokens = tokenizer.encode(pieces[0])
        for piece in pieces[1:]:
            tokens = np.concatenate([tokens, [np.int32(tokenizer.special_id(MASK))], tokenizer.encode(piece)])
        if len(tokens) > self._num_text:
            raise UserError(
                f"the text has {len(tokens)} tokens, expected at most {self._num_text} (data.length - 2): cut it."
            )
        return {"tokens": tokens}

    def make_predict_batch(self, examples: HostBatch) -> dict[str, np.ndarray]:
        """Requests -> a batch that asks for their hidden tokens; its targets are the masks."""
        tokens, is_read = self._framed(examples)
        is_mask = (tokens == self._mask_id) & is_read
        order = np.argsort(~is_mask, axis=1, kind="stable")[:, : self._most]
        is_target = np.take_along_axis(is_mask, order, 1)
        places = np.where(is_target, order, 0).astype(np.int32)
        targets = np.where(is_target, self._mask_id, 0).astype(np.int32)
        return _batch(Masked(tokens, places, targets, is_target), is_read)

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """{"candidates": for each hidden token [{"token", "probability"}, ...], best first} of each row."""
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


def _logits(apply: Apply, params: PyTree, batch: PyTree, **options) -> jax.Array:
    """Scores of the vocabulary at the hidden places: `[rows, most, vocab_size] float32`."""
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
        "predict_at": masked.places,
        "targets": masked.targets,
        "loss_weights": masked.is_target.astype(np.float32),
    }
