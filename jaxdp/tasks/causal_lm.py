"""Causal language modelling: predict each next token (GPT)."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.errors import UserError
from jaxdp.tasks.empty_texts import cure, reason
from jaxdp.tasks.losses import ACCURACY, BITS_PER_BYTE, PERPLEXITY, perplexity, token_loss_sums
from jaxdp.tasks.task import Apply, LossSums, Task, TaskInputs
from jaxdp.typing import HostBatch, PyTree

_PACKED = ("segment_ids", "positions")
"""What packed rows say beside their tokens."""


class CausalLM(Task):
    """Rows are windows of `length + 1` tokens, whole documents, or one document each.

    A window gives inputs, and the same shifted by one as targets. Packed rows bring
    targets of their own, and say which tokens belong together.

    With the option `completion_only` a record is a `source` and a `target`, joined by
    the option `separator`: the model reads both and learns the target alone. A record
    that is cut loses the beginning of its source, so that there is something to learn.
    """

    packings = ("cut", "documents", "none")
    architectures = ("decoder",)
    metrics = (PERPLEXITY, ACCURACY, BITS_PER_BYTE)
    can_augment = False

    def __init__(self, inputs: TaskInputs):
        self._length = inputs.length
        self._packed = inputs.packing == "documents"
        self._label_smoothing = inputs.label_smoothing
        self._z_loss = inputs.z_loss
        self._token_bytes = None if inputs.tokenizer is None else inputs.tokenizer.token_bytes()
        if self._token_bytes is None:
            self.metrics = (PERPLEXITY, ACCURACY)
        self._completion_only = inputs.options.get("completion_only", False)
        self.model_options = {"head": "language_model"}
        self.end_before_text = {"documents": "always", "none": "never"}.get(inputs.packing, "between")
        self.fields, self.eos_fields = ("text",), ("tokens",)
        # A packed row says itself what its targets are; any other is read one token further.
        places = self._length + (inputs.packing == "none")
        self.row_lengths = {"tokens": places}
        if self._completion_only:
            self.prompt_end = inputs.options["separator"]
            self.prepared_with = {"separator": self.prompt_end}
            # End of text is a part of what is learned, so it comes from `prepare`.
            self.fields, self.eos_fields = ("source", "target"), ()
            self.packings = ("none", "documents")
            self.row_lengths = {"tokens": places, "loss_mask": places}

    def prepare(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """{"text"} -> {"tokens": [num_tokens] int32}.

        {"source", "target"} -> {"tokens", "loss_mask": [num_tokens] int32}, end of text
        included; the mask is 1 for the tokens of the target and its end of text.

        Raises:
            UserError: the target is empty.
        """
        if not self._completion_only:
            return {"tokens": tokenizer.encode(record["text"])}
        if not record["target"]:
            raise UserError(f"{reason('target', '')}; {cure('')}.")
        source = tokenizer.encode(record["source"] + self.prompt_end)
        target = np.append(tokenizer.encode(record["target"]), np.int32(tokenizer.eos_id))
        return {
            "tokens": np.concatenate([source, target]),
            "loss_mask": np.repeat(np.array([0, 1], np.int32), [len(source), len(target)]),
        }

    def make_batch(
        self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Rows -> inputs, targets and weights; nothing here is random.

        Args:
            examples: windows and single documents: {"tokens": [rows, length + 1] int32,
                "num_tokens": [rows] int32}, tokens past `num_tokens` being padding;
                packed: {"tokens", "targets", "segment_ids", "positions":
                [rows, length] int32, "num_tokens"}. With `completion_only` also
                "loss_mask": [rows, length + 1] int32 as `prepare` gives it; packed:
                [rows, length] int32, that of each target.
        """
        num_tokens = examples["num_tokens"] - (not self._packed)
        valid = np.arange(self._length)[None, :] < num_tokens[:, None]
        if self._packed:
            batch = {name: examples[name] for name in ("tokens", "targets", *_PACKED)}
        else:
            tokens = examples["tokens"]
            batch = {
                "tokens": np.ascontiguousarray(tokens[:, :-1]),
                "targets": np.ascontiguousarray(tokens[:, 1:]),
            }
        if self._completion_only:
            valid = valid & (examples["loss_mask"][:, -self._length :] > 0)
            batch["num_tokens"] = np.maximum(num_tokens, 0).astype(np.int32)
        return batch | {"loss_weights": valid.astype(np.float32)}

    def batch_spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{"tokens", "targets": [rows, length] int32, "loss_weights": [rows, length] float32}.

        Packed rows have `segment_ids` and `positions` [rows, length] int32 too; with
        `completion_only` there is `num_tokens` [rows] int32, the inputs that are read.
        """
        shape = (rows, self._length)
        names = ("tokens", "targets", *(_PACKED if self._packed else ()))
        spec = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}
        if self._completion_only:
            spec["num_tokens"] = jax.ShapeDtypeStruct((rows,), jnp.int32)
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
        # What is read but not predicted counts for the speed alone.
        read = jnp.sum(batch["num_tokens"].astype(jnp.float32)) if self._completion_only else None
        sums = token_loss_sums(
            logits, batch, read, train=train, label_smoothing=self._label_smoothing, z_loss=self._z_loss
        )
        if train or self._token_bytes is None:
            return sums
        target_bytes = jnp.asarray(self._token_bytes, jnp.float32)[batch["targets"]]
        bits = (sums.loss / math.log(2), jnp.sum(target_bytes * batch["loss_weights"]))
        return sums._replace(metrics=sums.metrics | {"bits_per_byte": bits})

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """{"logits": [rows, length, vocab_size] float32}."""
        return {"logits": self._logits(apply, params, batch)}

    def _logits(self, apply: Apply, params: PyTree, batch: PyTree, **options) -> jax.Array:
        packed = {name: batch[name] for name in _PACKED} if self._packed else {}
        return apply(params, batch["tokens"], **packed, **options)

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Perplexity of a token, e to the mean cross-entropy in nats."""
        return {"perplexity": perplexity(means["loss"])}
