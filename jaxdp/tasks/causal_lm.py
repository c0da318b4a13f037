"""Causal language modelling task: next-token prediction (GPT)."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.errors import UserError
from jaxdp.tasks.empty_texts import cure, reason
from jaxdp.tasks.losses import ACCURACY, BITS_PER_BYTE, PERPLEXITY, perplexity, token_loss_sums
from jaxdp.tasks.task import Apply, LossSums, Task, TaskInputs
from jaxdp.typing import HostBatch, PyTree

_PACKED = ("segment_ids", "positions")
"""Arrays of a packed sequence in addition to its tokens."""


class CausalLM(Task):
    """Next-token prediction on windows of `length + 1` tokens, packed documents, or single documents.

    The targets of a window are its tokens shifted by one. Packed sequences bring
    targets of their own, and segment ids that separate the documents.

    With the option `completion_only` a record is a `source` and a `target`, joined by
    the option `separator`: the model reads both and learns only the target. A record
    that is cut loses the beginning of its source, so that the target remains.
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
        self.end_before_text = {"documents": "always", "none": "never"}.get(inputs.packing or "", "between")
        self.fields, self.eos_fields = ("text",), ("tokens",)
        # A packed sequence has targets of its own; any other is read one token further.
        capacity = self._length + (inputs.packing == "none")
        self.row_lengths = {"tokens": capacity}
        if self._completion_only:
            self.prompt_end = inputs.options["separator"]
            self.prepared_with = {"separator": self.prompt_end}
            # The eos token is part of the learned target, so `prepare` adds it.
            self.fields, self.eos_fields = ("source", "target"), ()
            self.packings = ("none", "documents")
            self.row_lengths = {"tokens": capacity, "loss_mask": capacity}

    def prepare(self, record: Mapping[str, str], tokenizer) -> dict[str, np.ndarray]:
        """Tokenizes a record.

        Returns:
            {"tokens": [num_tokens] int32} of {"text"}; of {"source", "target"} {"tokens",
            "loss_mask": [num_tokens] int32}, eos included, where the mask is 1 for the
            tokens of the target and its eos token.

        Raises:
            UserError: The target is empty.
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

    def make_batch(self, examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Splits sequences into inputs, targets and weights, without randomness.

        Args:
            examples: windows and single documents: {"tokens": [rows, length + 1] int32,
                "num_tokens": [rows] int32}, tokens past `num_tokens` being padding;
                packed: {"tokens", "targets", "segment_ids", "positions":
                [rows, length] int32, "num_tokens"}. With `completion_only` also
                "loss_mask": [rows, length + 1] int32 as `prepare` returns it; packed:
                [rows, length] int32, that of each target.
            seed: unused.
            step: unused.
            row_ids: unused.
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
        """Returns {"tokens", "targets": [rows, length] int32, "loss_weights": [rows, length] float32}.

        Packed sequences add `segment_ids` and `positions` [rows, length] int32;
        `completion_only` adds `num_tokens` [rows] int32, the number of inputs read.
        """
        shape = (rows, self._length)
        names = ("tokens", "targets", *(_PACKED if self._packed else ()))
        spec = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}
        if self._completion_only:
            spec["num_tokens"] = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return spec | {"loss_weights": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def loss(self, apply: Apply, params: PyTree, batch: PyTree, row_keys: jax.Array | None, train: bool) -> LossSums:
        """Sums the next-token cross-entropy; in evaluation without regularisers, with metrics.

        Padding is only at the end of a sequence, where causality hides it from every
        valid position, so no attention mask is needed. Packed documents attend only
        within themselves.
        """
        layer = self._run(apply, params, batch, row_keys=row_keys, method="output_layer")
        # Tokens that are read but not predicted count only for the throughput.
        read = jnp.sum(batch["num_tokens"].astype(jnp.float32)) if self._completion_only else None
        sums = token_loss_sums(
            layer, batch, read, train=train, label_smoothing=self._label_smoothing, z_loss=self._z_loss
        )
        if train or self._token_bytes is None:
            return sums
        target_bytes = jnp.asarray(self._token_bytes, jnp.float32)[batch["targets"]]
        bits = (sums.loss / math.log(2), jnp.sum(target_bytes * batch["loss_weights"]))
        return sums._replace(metrics={**sums.metrics, "bits_per_byte": bits})

    def outputs(self, apply: Apply, params: PyTree, batch: PyTree) -> dict[str, jax.Array]:
        """Returns {"logits": [rows, length, vocab_size] float32}."""
        return {"logits": self._run(apply, params, batch)}

    def _run(self, apply: Apply, params: PyTree, batch: PyTree, **options) -> Any:
        packed = {name: batch[name] for name in _PACKED} if self._packed else {}
        return apply(params, batch["tokens"], **packed, **options)

    def derived_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """Returns the perplexity of a token, e to the mean cross-entropy in nats."""
        return {"perplexity": perplexity(means["loss"])}
