"""One small case, or a few, of every registered task: records, options, and a model that can learn them.

A new task adds its cases here, and the conformance suite runs them.
"""

import dataclasses
import functools
import string
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_tokenizer import LetterTokenizer

from jaxdp.model import Transformer, model_config, parameter_shapes
from jaxdp.model.output_layer import OutputLayer
from jaxdp.tasks import LabelCensus, TaskInputs, pad_examples, registered_tasks

LENGTH, TARGET_LENGTH, WIDER = 14, 11, 5
NUM_RECORDS = 32
LETTERS = string.ascii_letters + string.digits + " "
TOKENIZER = LetterTokenizer(letters=LETTERS)


def _texts(num_words):
    """NUM_RECORDS texts of short words; each begins with a letter of its own."""
    random = np.random.default_rng(0)
    words = ("ant", "bee", "cat", "dog", "eel")
    return [
        LETTERS[number] + " ".join(words[n] for n in random.integers(0, len(words), 1 + number % num_words))
        for number in range(NUM_RECORDS)
    ]


TEXTS = _texts(3)


@dataclasses.dataclass(frozen=True)
class Case:
    """How a task is tried.

    Attributes:
        task: its registered name.
        preset: of the model, made tiny.
        records: NUM_RECORDS of them.
        options: the task's own.
        packing: what a row is.
    """

    task: str
    preset: str
    records: list[Mapping[str, Any]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    packing: str = "none"

    def inputs(self, wider=0) -> TaskInputs:
        labels = None
        if "label" in self.records[0]:
            census = LabelCensus(self.options["kind"], self.options["label_separator"])
            for record in self.records:
                census.add(record["label"])
            labels = census.labels()
        return TaskInputs(
            length=LENGTH + wider, target_length=TARGET_LENGTH + wider, tokenizer=TOKENIZER,
            packing=self.packing, label_smoothing=0.1, z_loss=1e-3, labels=labels, options=self.options,
        )  # fmt: skip

    def make_task(self, wider=0, **changes):
        """The task; `wider` has rows with more places for the same texts."""
        return registered_tasks()[self.task](dataclasses.replace(self.inputs(wider), **changes))

    def make_model(self, **overrides):
        """A model for the wider rows, which serves the others too."""
        task = self.make_task(WIDER)
        shape = {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "embed_dim": 16, "mlp_dim": 32}
        config = model_config(
            self.preset, shape | {"dropout_rate": 0.1} | overrides, vocab_size=TOKENIZER.vocab_size,
            max_length=LENGTH + WIDER, **task.model_options,
        )  # fmt: skip
        return Transformer(config)

    def rows(self, task, num_rows=NUM_RECORDS, records=None):
        """The records as padded rows, and padding up to `num_rows`."""
        records = self.records if records is None else records
        examples = [task.prepare(record, TOKENIZER) for record in records]
        end_ids = dict.fromkeys(task.eos_fields, TOKENIZER.eos_id)
        return pad_examples(task, examples, end_ids, num_rows)[0]


def _labelled(label_of, pooling, kind="single_label", preset="encoder_nano", class_weights="balanced"):
    records = [{"text": text, "label": label_of(number)} for number, text in enumerate(TEXTS)]
    options = {"kind": kind, "pooling": pooling, "class_weights": class_weights, "label_separator": ","}
    return Case("classification", preset, records, options)


_PLAIN = [{"text": text} for text in TEXTS]
_PAIRS = [{"source": text[:4], "target": text[1:9][::-1]} for text in TEXTS]
_LABELS = ("ale", "milk", "tea")

CASES = {
    "causal_lm": Case("causal_lm", "nano", _PLAIN),
    "masked_lm": Case(
        "masked_lm", "encoder_nano", _PLAIN, {"mask_rate": 0.15, "whole_words": False, "num_candidates": 10}
    ),
    "classification": _labelled(lambda number: _LABELS[number % 5 // 2], "first"),
    "seq2seq": Case("seq2seq", "seq2seq_nano", _PAIRS, {"bleu_tokenize": "13a"}),
}
"""The main case of each task."""

VARIANTS = CASES | {
    "completion": Case("causal_lm", "llama_nano", _PAIRS, {"completion_only": True, "separator": " "}),
    "whole_words": Case(
        "masked_lm", "bert_tiny", _PLAIN, {"mask_rate": 0.4, "whole_words": True, "num_candidates": 10}
    ),
    "multi_label": _labelled(lambda number: ",".join(_LABELS[: number % 4]), "mean", "multi_label"),
    "regression": _labelled(lambda number: number / 4, "last", "regression", "nano", "none"),
}
"""All cases."""


def random_params(model, deviation=0.3):
    """Every leaf normal, large enough that outputs differ by input."""
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, deviation, leaf.shape), jnp.float32),
        parameter_shapes(model.config),
    )


def apply_of(model):
    """The model as a plain function of its parameters."""
    return functools.partial(_apply, model)


def _apply(model, params, tokens, **options):
    return model.apply({"params": params}, tokens, **options)


def with_output_layer(logits_of):
    """A model whose output layer has the logits that `logits_of` returns."""

    def apply(*arguments, method, **options):
        assert method == "output_layer"
        logits = logits_of(*arguments, **options)
        return OutputLayer(logits, jnp.eye(logits.shape[-1]))

    return apply
