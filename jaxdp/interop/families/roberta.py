"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020): tensors and configuration of Hugging Face."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.interop.families.bert import CONFIG, EMBEDDINGS, LAYER
from jaxdp.interop.families.family import Architecture, Family, activation_key, encoder_of

MASKED_LM_HEAD = (
    ("lm_head.dense.weight", "masked_lm/dense/kernel.T"),
    ("lm_head.dense.bias", "masked_lm/dense/bias"),
    ("lm_head.layer_norm.weight", "masked_lm/norm/scale"),
    ("lm_head.layer_norm.bias", "masked_lm/norm/bias"),
    ("lm_head.bias", "output_bias"),
    ("lm_head.decoder.weight", "output/kernel.T"),
)

CLASSIFIER = (
    ("classifier.dense.weight", "classifier/pooler/kernel.T"),
    ("classifier.dense.bias", "classifier/pooler/bias"),
    ("classifier.out_proj.weight", "classifier/output/kernel.T"),
    ("classifier.out_proj.bias", "classifier/output/bias"),
)

NOT_USED = ((r"pooler\.dense\..*", "pooler, which this architecture does not use"),)

_activation_to_model, _activation_to_theirs = activation_key("hidden_act", {"gelu": "gelu"})  # the head has no other


def _to_model(values: Mapping[str, Any]) -> dict[str, Any]:
    pad_id, rows = values["pad_token_id"], values["max_position_embeddings"]
    if not isinstance(pad_id, int) or not 0 <= pad_id < rows - 1:
        raise UserError(
            f"pad_token_id={pad_id!r} of config.json is the position before the first one; expected a number from 0 to "
            f"{rows - 2}, below max_position_embeddings={rows} - 1."
        )
    return _activation_to_model(values) | {"position_offset": pad_id + 1, "max_length": rows - pad_id - 1}


def _to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    return _activation_to_theirs(model) | {
        "pad_token_id": max(model["position_offset"] - 1, 0),
        "max_position_embeddings": model["max_length"] + model["position_offset"],
    }


KEYS = dataclasses.replace(
    CONFIG,
    same={theirs: ours for theirs, ours in CONFIG.same.items() if ours != "max_length"},
    defaults={**CONFIG.defaults, "vocab_size": 50265, "pad_token_id": 1},
    free=CONFIG.free | {"output_past"},
    translated=frozenset(("hidden_act", "pad_token_id", "max_position_embeddings")),
    to_model=_to_model,
    to_theirs=_to_theirs,
)


def _family(model_type: str, name: str, vocab_size: int) -> Family:
    """Returns the family of classes whose names begin with `name`."""
    return Family(
        model_type=model_type,
        body=EMBEDDINGS + LAYER,
        prefixes=("roberta.",),
        ignored=((r"embeddings\.position_ids", "positions in order, which have no learned values"),),
        architectures={
            f"{name}ForMaskedLM": Architecture(
                task="masked_lm",
                prefix="roberta.",
                head=MASKED_LM_HEAD,
                tied=(
                    ("lm_head.decoder.weight", "embeddings.word_embeddings.weight"),
                    ("lm_head.decoder.bias", "lm_head.bias"),
                ),
                untied=(("lm_head.decoder.bias", "lm_head.bias"),),
                ignored=NOT_USED,
            ),
            f"{name}Model": encoder_of(*NOT_USED, (r"lm_head\..*", "head, which this architecture does not have")),
            f"{name}ForSequenceClassification": Architecture(
                task="classification",
                prefix="roberta.",
                head=CLASSIFIER,
                options={"pooling": "first"},
                ignored=NOT_USED,
            ),
        },
        config=dataclasses.replace(KEYS, defaults={**KEYS.defaults, "vocab_size": vocab_size}),
    )


ROBERTA = _family("roberta", "Roberta", 50265)
XLM_ROBERTA = _family("xlm-roberta", "XLMRoberta", 30522)
