"""Mapping between config.json of a Hugging Face model and `config.model`: an allow-list a family, and nothing ignored that matters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.interop.families.family import Architecture, Family
from jaxdp.interop.families.registry import FAMILIES
from jaxdp.model import TransformerConfig, model_config
from jaxdp.run_config import COMPUTE_KEYS, ModelConfig

HEADS = {
    "causal_lm": "language_model",
    "masked_lm": "masked_lm",
    "classification": "classification",
    "seq2seq": "language_model",
    "embedding": "none",
}
"""Task -> head of its model."""

FREE = frozenset(
    (
        "architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "name_or_path",
        "initializer_range", "initializer_factor", "use_cache", "gradient_checkpointing", "tokenizer_class", "torchscript",
        "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "prefix",
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id",
        "decoder_start_token_id", "output_attentions", "output_hidden_states", "return_dict", "use_bfloat16",
        "chunk_size_feed_forward", "_attn_implementation", "attn_implementation", "_attn_implementation_autoset",
        "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
        "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
        "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
        "begin_suppress_tokens", "output_scores", "return_dict_in_generate", "is_encoder_decoder", "cross_attention_hidden_size",
        "tf_legacy_loss", "use_mup", "unsloth_version", "unsloth_fixed", "pretraining_tp",
    )
)  # fmt: skip
"""Keys that do not change the output of any family's model: initialisation, training, labels, special ids, generation."""

_OFF = (None, False, {}, [])
"""Values of an unknown key that cannot change anything."""

RUN_KEYS = (
    "dtype", "remat", "scan_layers", "attention", "platform", "loss_chunk", "zero_init_residual", "dropout_rate",
    "attention_dropout_rate", "target_vocab_size", "max_target_length", "share_embeddings", "num_decoder_layers",
)  # fmt: skip
"""Fields of `TransformerConfig` that do not change the output of a model without a decoder of its own, or that a family need not know."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Model of a Hugging Face folder, in terms of jaxdp.

    Attributes:
        family: Its family.
        architecture_name: Class of transformers.
        architecture: Its head and tensors.
        model: Values of `config.model`, `vocab_size` included.
        max_length: Maximum length in tokens.
    """

    family: Family
    architecture_name: str
    architecture: Architecture
    model: Mapping[str, Any]
    max_length: int


def read_model(config: Mapping[str, Any], where: str) -> ModelSpec:
    """Translates a config.json.

    Args:
        config: Content of the file.
        where: Its path, for messages.

    Raises:
        UserError: The model is of an unknown family or class, or has an option that jaxdp does not support.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        raise UserError(
            f"{where}: model_type={config.get('model_type')!r} is unknown; known are {', '.join(sorted(FAMILIES))}."
        )
    names = config.get("architectures") or [next(iter(family.architectures))]
    name = str(names[0]) if isinstance(names, list) else ""
    if len(names) != 1 or name not in family.architectures:
        raise UserError(
            f"{where}: the architecture {' and '.join(map(str, names))} is unknown; of model_type={family.model_type} known "
            f"are {', '.join(family.architectures)}."
        )
    architecture = family.architectures[name]
    values = _checked(family, config, where)
    try:
        model = (
            {ours: values[theirs] for theirs, ours in family.config.same.items()}
            | dict(family.config.model)
            | family.config.to_model(values)
            | dict(architecture.model)
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if (pooling := model.pop("pooling", "")) and architecture.task == "classification":
        architecture = dataclasses.replace(architecture, options={"pooling": pooling, **architecture.options})
    return ModelSpec(family, name, architecture, model, model.pop("max_length"))


def _checked(family: Family, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns all keys that the family maps, with the defaults of those that are absent."""
    keys = family.config
    mapped = keys.same.keys() | keys.translated | keys.defaults.keys()
    for key, value in config.items():
        if key in mapped or key in keys.free or key in FREE:
            continue
        allowed = keys.fixed.get(key, _OFF)
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed):
            expected = " or ".join(repr(each) for each in allowed) if key in keys.fixed else "no such key"
            raise UserError(
                f"{where}: {key}={value!r} is not supported for model_type={family.model_type}, since it may change what the "
                f"model computes; expected {expected}."
            )
    return {**keys.defaults, **{key: config[key] for key in mapped if key in config}}


def write_model(family: Family, name: str, model: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Returns the keys of config.json that describe a model.

    Args:
        family: Family of the model.
        name: Class of transformers.
        model: All values of the model, by field of `TransformerConfig`.
        max_length: Maximum length in tokens.
    """
    values = {**model, "max_length": max_length}
    ours = {theirs: values[key] for theirs, key in family.config.same.items()}
    return {
        "architectures": [name], "model_type": family.model_type, **ours, **family.config.to_theirs(values),
        **{key: allowed[0] for key, allowed in family.config.fixed.items()},
    }  # fmt: skip


def fitting_family(task: str, config: TransformerConfig) -> tuple[Family, str, TransformerConfig]:
    """Finds the family whose config.json can describe a model; one that has biases describes a model without, by zeros.

    Args:
        task: Task of the run.
        config: Its model.

    Returns:
        The family, its class for the task, and the model that this describes.

    Raises:
        UserError: No family can; the message names what the nearest one lacks.
    """
    values, problems, refused = dataclasses.asdict(config), {}, set()
    for family in FAMILIES.values():
        for name, architecture in family.architectures.items():
            if architecture.task != task:
                continue
            theirs = write_model(family, name, values, config.max_length)
            try:
                found = read_model(theirs, "config.json")
            except UserError as error:
                problems[family.model_type] = [str(error)]
                refused.add(family.model_type)
                break
            differences = model_differences(found, config)
            if not differences:
                return family, name, config
            with_biases = dataclasses.replace(config, use_bias=True, qkv_bias=True)
            if not model_differences(found, with_biases):
                return family, name, with_biases
            problems[family.model_type] = differences
            break
    if not problems:
        raise UserError(f"no weight family has a head for task={task}; known are {', '.join(FAMILIES)}.")
    # A family that refuses a value outright comes after those that differ in keys.
    nearest = min(problems, key=lambda family: (family in refused, len(problems[family])))
    raise UserError(
        f"no weight family can express this model; the nearest, {nearest}, differs in {', '.join(problems[nearest][:4])}."
    )


def transformer_config(spec: ModelSpec, num_labels: int = 0) -> TransformerConfig:
    """Returns the model of a translated config.json.

    Args:
        spec: The translation.
        num_labels: Number of labels of a classifier.
    """
    model = {key: value for key, value in spec.model.items() if key != "vocab_size"}
    head = HEADS[spec.architecture.task]
    return model_config(
        "gpt2",
        model,
        vocab_size=spec.model["vocab_size"],
        max_length=spec.max_length,
        head=head,
        num_labels=num_labels if head == "classification" else 0,
        pooling=spec.architecture.options.get("pooling", "first"),
    )


def model_keys(spec: ModelSpec) -> dict[str, Any]:
    """Returns all keys of `config.model` that describe the model of a translated config.json."""
    is_classifier = spec.architecture.task == "classification"
    values = dataclasses.asdict(transformer_config(spec, 2 if is_classifier else 0))
    return {key: values[key] for key in ModelConfig.__dataclass_fields__ if key in values and key not in COMPUTE_KEYS}


def model_differences(spec: ModelSpec, config: TransformerConfig) -> list[str]:
    """Returns the keys in which a model differs from a translated config.json, as `GROUP.KEY=OURS (THEIRS)`.

    A shorter length is no difference, except of learned positions: others have no table of that size.
    """
    theirs, ours = dataclasses.asdict(transformer_config(spec, config.num_labels)), dataclasses.asdict(config)
    return [
        f"{'classification' if key == 'pooling' else 'model'}.{key}={ours[key]!r} ({theirs[key]!r})"
        for key in theirs
        if key not in RUN_KEYS
        and ours[key] != theirs[key]
        and (key != "pooling" or config.num_labels)
        and (key != "max_length" or config.max_length > spec.max_length or config.positions == "learned")
    ]
