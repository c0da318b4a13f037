"""Causal language modelling: predict each next token (GPT)."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.tasks.losses import cross_entropy_sums
from jaxdp.tasks.task import Apply, LossSums, TaskInputs
from jaxdp.typing import HostBatch, PyTree

_PACKED = ("segment_ids", "positions")
"""What packed rows say beside their tokens."""


class CausalLM:
    """Rows are windows of `length + 1` tokens, or whole documents packed side by side.

    A window gives inputs, and the same shifted by one as targets. Packed rows bring
    targets of their own, and say which tokens belong together.
    """

    fields = ("text",)
    terminated = ("tokens",)
    packings = ("cut", "documents")

    def __init__(self, inputs: TaskInputs):
        self._length = inputs.length
        self._packed = inputs.packing == "documents"
        self._label_smoothing = inputs.label_smoothing
        self._z_loss = inputs.z_loss
        self._token_bytes = None if inputs.tokenizer is None else inputs.tokenizer.token_bytes()

    def prepare(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """{"text"} -> {"tokens": [num_tokens] int32}."""
        return {"tokens": tokenizer.encode(record["text"])}

    def make_batch(
        self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Rows -> inputs, targets and weights; nothing here is random.

        Args:
            examples: windows: {"tokens": [rows, length + 1] int32, "num_tokens": [rows]
                int32}, tokens past `num_tokens` being padding; packed: {"tokens",
                "targets", "segment_ids", "positions": [rows, length] int32, "num_tokens"}.
        """
        if self._packed:
            valid = np.arange(self._length)[None, :] < examples["num_tokens"][:, None]
            packed = {name: examples[name] for name in ("tokens", "targets", *_PACKED)}
            return packed | {"loss_weights": valid.astype(np.float32)}
        tokens = examples["tokens"]
        valid = np.arange(1, self._length + 1)[None, :] < examples["num_tokens"][:, None]
        return {
            "tokens": np.ascontiguousarray(tokens[:, :-1]),
            "targets": np.ascontiguousarray(tokens[:, 1:]),
            "loss_weights": valid.astype(np.float32),
        }

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{"tokens", "targets": [rows, length] int32, "loss_weights": [rows, length] float32}.

        Packed rows have `segment_ids` and `positions` [rows, length] int32 too.
        """
        shape = (rows, self._length)
        names = ("tokens", "targets", *(_PACKED if self._packed else ()))
        spec = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}
        return spec | {"loss_weights": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def loss(
        self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool
    ) -> LossSums:
        """Summed next-token cross-entropy; when evaluating, pure and with its metrics.

        Padding stands only at the end of a row, where causality keeps it from
        every valid position, so no attention mask is needed. Packed documents
        attend within themselves.
        """
        logits = self._logits(apply, params, batch, row_keys=row_keys)
        targets, weights = batch["targets"], batch["loss_weights"]
        objective, nats = cross_entropy_sums(
            logits,
            targets,
            weights,
            label_smoothing=self._label_smoothing,
            z_loss=self._z_loss,
        )
        weight = jnp.sum(weights)
        if train:
            return LossSums(objective, weight, {})
        correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
        metrics = {"accuracy": (correct, weight)}
        if self._token_bytes is not None:
            target_bytes = jnp.asarray(self._token_bytes, jnp.float32)[targets]
            metrics["bits_per_byte"] = (nats / math.log(2), jnp.sum(target_bytes * weights))
        return LossSums(nats, weight, metrics)

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """{"logits": [rows, length, vocab_size] float32}."""
        return {"logits": self._logits(apply, params, batch)}

    def _logits(self, apply: Apply, params: PyTree, batch: PyTree, **options) -> jax.Array:
        packed = {name: batch[name] for name in _PACKED} if self._packed else {}
        return apply(params, batch["tokens"], **packed, **options)

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Perplexity of a token, e to the mean cross-entropy in nats."""
        return {"perplexity": math.exp(min(means["loss"], 700.0))}
