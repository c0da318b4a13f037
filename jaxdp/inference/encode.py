"""Vectors of texts from the hidden states of any model, as sentence encoders give them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxdp import defaults
from jaxdp.arguments import as_list, check_choice
from jaxdp.errors import UserError
from jaxdp.inference.batched_outputs import batched_outputs
from jaxdp.inference.prediction_requests import RequestReader, examples_of, raw_records
from jaxdp.inference.restored_model import RestoredModel
from jaxdp.tasks import Task
from jaxdp.tasks.make import make_task

POOLINGS = {"mean": "mean", "cls": "first", "first": "first", "last": "last"}
"""Names of poolings, and their values of `embedding.pooling`."""

MIN_LENGTH = 16
"""Shortest padded length in tokens; longer ones are powers of two, so that there are few programs."""


def encode_texts(
    restored: RestoredModel, texts: str | Iterable[str], pooling: str | None, normalize: bool | None
) -> np.ndarray:
    """Computes the vectors of texts; see `LoadedModel.encode`."""
    records = as_list("texts", texts, (str,), "a string")
    if pooling is not None:
        check_choice("pooling", pooling, tuple(POOLINGS))
    tokenizer = restored.run.vocabularies.input_tokenizer
    if tokenizer is None:
        raise UserError(f"the model of {restored.run.directory.root} has no tokenizer, so it cannot read texts.")
    options = _options(restored.config.task_groups.get("embedding"))
    options |= {} if pooling is None else {"pooling": POOLINGS[pooling]}
    options |= {} if normalize is None else {"normalize": normalize}

    def task_of(length: int, **changes: Any) -> Task:
        config = restored.config.replaced(
            task="embedding",
            task_groups={**restored.config.task_groups, "embedding": options | changes},
            data={"length": length, "packing": "none"},
        )
        return make_task(config, restored.run.vocabularies)

    data = restored.data_config
    max_length = options.get("max_length") or data.length
    longest = task_of(data.length)
    requests = list(RequestReader(data, longest, tokenizer, ())(raw_records(records)))
    for request in requests:
        if request.error is not None:
            raise UserError(request.error)
    if not requests:
        return np.empty((0, restored.config.model.embed_dim or 0), np.float32)
    examples = examples_of(requests)
    framing = max_length - longest.row_lengths["tokens"]
    needed = max(len(example["tokens"]) for example in examples) + framing
    length = min(max(MIN_LENGTH, 1 << (needed - 1).bit_length()), max_length)
    outputs, _ = batched_outputs(restored, task_of(length, max_length=None), examples, (*options.values(), length))
    return np.concatenate([found["embedding"] for found in outputs(examples)])


def _options(group: Mapping[str, object] | None) -> dict:
    """Returns the group `embedding` of a configuration; of a run older than it the defaults."""
    return dict(group or defaults.get_config().embedding.to_dict())
