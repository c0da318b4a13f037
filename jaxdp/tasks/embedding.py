"""Embedding task: one vector a text from a model without a head, as sentence encoders give it; it is not trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.errors import UserError
from jaxdp.model.choices import POOLINGS
from jaxdp.tasks.framing import frame, frame_of
from jaxdp.tasks.task import Apply, LossSums, Task, TaskInputs
from jaxdp.typing import HostBatch, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """Keys of `config.embedding`.

    Attributes:
        pooling: reduction of the hidden states to one vector: mean over the tokens, the first or the last token.
        normalize: whether vectors have length 1.
        max_length: number of tokens of a text that are read, special ones included; None: `data.length`.

    Raises:
        UserError: A value is unknown.
    """

    pooling: str
    normalize: bool
    max_length: int | None = None

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise UserError(f"embedding.pooling is {self.pooling!r}; choose one of: {', '.join(POOLINGS)}.")


class Embedding(Task):
    """Vectors of texts, which are read in the frame of the tokenizer, `[CLS]` text `[SEP]` or `<s>` text `</s>`, if it has one."""

    fields = ("text",)
    eos_fields = ()
    packings = ("none",)
    architectures = ("encoder", "decoder")
    predict_fields = ("text",)
    prediction_names = ("embedding",)

    def __init__(self, inputs: TaskInputs):
        self._options = EmbeddingOptions(**inputs.options)
        self.model_options = {"head": "none"}
        self._length, key = _length(inputs.length, self._options.max_length)
        self._before, self._after = _frame(inputs.tokenizer)
        capacity = self._length - len(self._before) - len(self._after)
        if capacity < 1:
            raise UserError(f"{key}={self._length} is too short; expected at least 3.")
        self.row_lengths = {"tokens": capacity}

    def prepare(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """Raises UserError: there is nothing to learn."""
        raise UserError(
            "task=embedding has no objective to train or evaluate; `jaxdp predict` and `encode` give vectors, and another "
            "task trains the model with --config.init_from=WORKDIR."
        )

    def loss(self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool) -> LossSums:
        """Is never reached, since `prepare` refuses every record."""
        raise NotImplementedError

    def prepare_for_predict(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """Returns {"tokens": [num_tokens] int32} of {"text"}."""
        return {"tokens": tokenizer.encode(record["text"])}

    def make_batch(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Builds the same batch as `make_predict_batch`."""
        return self.make_predict_batch(examples)

    def make_predict_batch(self, examples: HostBatch) -> dict[str, np.ndarray]:
        """Frames the texts, empty ones too: {"tokens" int32, "attention_mask" bool: [rows, length]}."""
        num_tokens = examples["num_tokens"]
        tokens, is_read = frame(
            examples["tokens"], num_tokens, np.ones(len(num_tokens), bool), self._before, self._after
        )
        return {"tokens": tokens, "attention_mask": is_read}

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch; see `make_predict_batch`."""
        shape = (rows, self._length)
        return {
            "tokens": jax.ShapeDtypeStruct(shape, jnp.int32),
            "attention_mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
        }

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """Returns {"embedding": [rows, embed_dim] float32}; zeros for a text without tokens."""
        mask = batch["attention_mask"]
        hidden = apply(params, batch["tokens"], attention_mask=mask, method="encode").astype(jnp.float32)
        vectors = _pooled(hidden, mask, self._options.pooling)
        if self._options.normalize:
            norm = jnp.sqrt(jnp.square(vectors).sum(axis=-1, keepdims=True))
            vectors = vectors / jnp.maximum(norm, 1e-12)  # the limit of torch.nn.functional.normalize
        return {"embedding": vectors}

    def predictions(self, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"embedding": [number, ...]} for each row."""
        return [{"embedding": vector.tolist()} for vector in outputs["embedding"]]


def _length(data_length: int, max_length: int | None) -> tuple[int, str]:
    """Returns the number of tokens of a text that are read, and the key that sets it.

    Raises:
        UserError: `embedding.max_length` is not from 1 to `data.length`.
    """
    if max_length is None:
        return data_length, "data.length"
    if not 1 <= max_length <= data_length:
        raise UserError(f"embedding.max_length={max_length} must be from 1 to data.length={data_length}.")
    return max_length, "embedding.max_length"


def _frame(tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids before and after each text."""
    ids = {} if tokenizer is None else tokenizer.special_ids
    names = frame_of(ids)
    return ((), ()) if names is None else ((ids[names.before],), (ids[names.after],))


def _pooled(hidden: jax.Array, mask: jax.Array, pooling: str) -> jax.Array:
    """Reduces `[rows, length, embed_dim]` to `[rows, embed_dim]`; texts begin at position 0."""
    if pooling == "mean":
        total = jnp.where(mask[:, :, None], hidden, 0.0).sum(axis=1)
        return total / jnp.maximum(mask.sum(axis=1), 1)[:, None]
    last = jnp.maximum(mask.sum(axis=1) - 1, 0) if pooling == "last" else jnp.zeros(len(hidden), jnp.int32)
    first = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    return jnp.where(mask.any(axis=1)[:, None], first, 0.0)
