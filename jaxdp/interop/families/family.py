"""Declaration of a weight family: tables of tensor names, and the keys of config.json with their meaning."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxdp.errors import UserError

Row = tuple[str, str]
"""Tensor of a Hugging Face folder, and the parameter path it belongs to, both with `{}` for the layer.

`.T` after a path transposes the tensor; `a|b|c` in a path divides its last axis into equal parts, after the transpose;
`.1` after a path removes a first axis of size 1. `?path` at the end: only if the model has that parameter; `!path`: only if
it has not.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Class of transformers that a family supports, by the name in `architectures` of config.json.

    Attributes:
        task: Task of jaxdp that has its head.
        prefix: Prefix of the body's tensors in files of this class.
        body: Table of the tensors that the body has in addition, without prefix.
        head: Table of the tensors outside the body.
        tied: (tensor, tensor that it equals) if the embeddings are tied.
        equal: (tensor, tensor that it equals), tied embeddings or not.
        absent: (tensor, tensor whose values it has if the folder has none and the embeddings are not tied).
        untied: (tensor, tensor that it replaces) if the embeddings are not tied; both are written.
        ignored: (regular expression of a tensor, reason): tensors that this class does not use.
        spare: Table of tensors that this class does not use and the head of another task has; a run that starts from the folder
            may take them.
        options: Keys of the task's group of the configuration.
        model: Keys of `config.model` that differ from the body's.
        written_as: Class that an export names, if tensors of this one are not kept; "": this one.
    """

    task: str
    prefix: str = ""
    body: tuple[Row, ...] = ()
    head: tuple[Row, ...] = ()
    tied: tuple[Row, ...] = ()
    equal: tuple[Row, ...] = ()
    absent: tuple[Row, ...] = ()
    untied: tuple[Row, ...] = ()
    ignored: tuple[Row, ...] = ()
    spare: tuple[Row, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    written_as: str = ""


def encoder_of(*ignored: Row, pooling: str = "first") -> Architecture:
    """Returns the class of a body without a head, whose hidden states become vectors of texts.

    Args:
        ignored: (regular expression of a tensor, reason): tensors of heads.
        pooling: `embedding.pooling` of a folder that does not say it.
    """
    return Architecture(task="embedding", ignored=ignored, options={"pooling": pooling, "normalize": False})


def _unchanged(values: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigKeys:
    """Keys of a family's config.json; one that is not here must have a value that means "off".

    Attributes:
        same: Key -> key of the model with the same value.
        defaults: Key -> value that a config.json without the key stands for.
        fixed: Key -> values that the model can express; any other is refused by name.
        free: Keys that do not change the output of a model.
        model: Values of the model that all members of the family have.
        to_model: Function from all keys to those of the model that need code.
        to_theirs: Its inverse: function from the values of the model to keys of config.json.
        translated: Keys that these two functions read and write.
    """

    same: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    free: frozenset[str] = frozenset()
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    to_model: Callable[[Mapping[str, Any]], dict[str, Any]] = _unchanged
    to_theirs: Callable[[Mapping[str, Any]], dict[str, Any]] = _unchanged
    translated: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Weight family.

    Attributes:
        model_type: Value of `model_type` in config.json.
        body: Table of the tensors of the body, without prefix.
        prefixes: Prefixes that the tensors of the body may have.
        architectures: Class of transformers -> its head; the first one of a task is that of an export.
        config: Keys of config.json.
        ignored: (regular expression of a tensor without prefix, reason).
        renamed: (regular expression, replacement) of names that older versions of transformers wrote.
    """

    model_type: str
    body: tuple[Row, ...]
    prefixes: tuple[str, ...]
    architectures: Mapping[str, Architecture]
    config: ConfigKeys
    ignored: tuple[Row, ...] = ()
    renamed: tuple[Row, ...] = ()


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
"""Activation of transformers -> activation of an MLP without a gate."""


def activation_key(key: str, table: Mapping[str, str] = ACTIVATIONS) -> tuple[Callable, Callable]:
    """Returns the functions `to_model` and `to_theirs` for a key with the name of an activation.

    Args:
        key: Key of config.json.
        table: Name in transformers -> `model.activation`; the first of equal ones is written.
    """

    def to_model(values: Mapping[str, Any]) -> dict[str, Any]:
        if values[key] not in table:
            raise UserError(f"{key}={values[key]!r} of config.json is not supported; supported are {', '.join(table)}.")
        return {"activation": table[values[key]]}

    def to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for name, ours in table.items() if ours == model["activation"]]
        return {key: names[0]} if names else {}

    return to_model, to_theirs
