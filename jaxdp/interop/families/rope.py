"""Rotary positions in config.json: base and scaling, in the keys of transformers 5 (rope_parameters) and of earlier versions."""

from collections.abc import Mapping
from typing import Any

from jaxdp.errors import UserError

KEYS = frozenset(("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"))
"""Keys of config.json that `rope_to_model` reads."""

DEFAULTS: Mapping[str, Any] = {
    "rope_theta": None, "rope_scaling": None, "rope_parameters": None, "partial_rotary_factor": None,
}  # fmt: skip
"""Their values in a config.json without them."""

_SCALING = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_length",
    },
    "yarn": {
        "factor": "rope_factor",
        "beta_slow": "rope_low_freq_factor",
        "beta_fast": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_length",
        "attention_factor": "rope_attention_factor",
    },
}
"""Scaling of transformers -> its parameters and the keys of the model that hold them."""

_OPTIONAL: Mapping[str, Mapping[str, Any]] = {
    "yarn": {"beta_slow": 1.0, "beta_fast": 32.0, "attention_factor": 0.0},
}
"""Scaling -> values of parameters that are absent or null."""

_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def rope_parameters(values: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """Returns the parameters of one kind of layers, `rope_type` and `rope_theta` included.

    Args:
        values: Keys of config.json, with `DEFAULTS`.
        theta: Base of a config.json without one.
    """
    found = dict(values["rope_scaling"] or values["rope_parameters"] or {})
    found["rope_type"] = found.get("rope_type") or found.pop("type", None) or "default"
    for key, default in (("rope_theta", theta), ("partial_rotary_factor", 1.0)):
        if found.get(key) is None:
            found[key] = default if values[key] is None else values[key]
    return found


def rope_to_model(parameters: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Translates the result of `rope_parameters` to keys of the model.

    Args:
        parameters: Parameters of one kind of layers.
        max_length: Maximum length, which a config.json without a length of pre-training means.

    Raises:
        UserError: The scaling or one of its parameters is not supported.
    """
    kind = parameters["rope_type"]
    if kind not in _SCALING:
        raise UserError(f"rope_type={kind!r} of config.json is not supported; supported are {', '.join(_SCALING)}.")
    table = _SCALING[kind]
    given: dict[str, Any] = {"original_max_position_embeddings": max_length} if kind != "default" else {}
    given |= dict(_OPTIONAL.get(kind, {})) | {key: value for key, value in parameters.items() if value is not None}
    for key, value in given.items():
        harmless = key in _COMMON or key in table or (key == "truncate" and value is True)
        if not harmless and not (kind in ("default", "linear") and key == "original_max_position_embeddings"):
            raise UserError(f"{key}={value!r} with rope_type={kind!r} of config.json is not supported; remove the key.")
    missing = [key for key in table if key not in given]
    if missing:
        raise UserError(f"rope_type={kind!r} of config.json needs {', '.join(missing)}, which it does not have.")
    return {
        "rope_scaling": "none" if kind == "default" else kind,
        "rotary_base": float(given["rope_theta"]),
        "rotary_fraction": float(given["partial_rotary_factor"]),
        **{ours: (int if "length" in ours else float)(given[theirs]) for theirs, ours in table.items()},
    }


def rope_to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of config.json for the rotary positions of a model, in the form that all versions read."""
    kind = model["rope_scaling"]
    written: dict[str, Any] = {"rope_theta": model["rotary_base"], "rope_scaling": None}
    if model["rotary_fraction"] != 1:
        written["partial_rotary_factor"] = model["rotary_fraction"]
    if kind != "none":
        scaling = {theirs: model[ours] for theirs, ours in _SCALING[kind].items()}
        if not scaling.get("attention_factor", True):
            del scaling["attention_factor"]
        written["rope_scaling"] = {"rope_type": kind, **scaling}
    return written


def parameters_by_kind(values: Mapping[str, Any], kind: str, theta: float) -> dict[str, Any]:
    """Returns the parameters of a kind of layers whose rotary positions are their own.

    Args:
        values: Keys of config.json; `rope_parameters` has a dict for each kind, or is null.
        kind: Value of `layer_types`.
        theta: Base of a config.json whose `rope_parameters` has none for the kind.
    """
    found = dict((values["rope_parameters"] or {}).get(kind) or {})
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 1.0} | {
        key: value for key, value in found.items() if value is not None
    }


def base_of(values: Mapping[str, Any], kind: str, theta: float) -> float:
    """Returns the base of a kind of layers without scaling; see `parameters_by_kind`.

    Raises:
        UserError: The rotary positions of the kind are scaled.
    """
    found = parameters_by_kind(values, kind, theta)
    scaled = {key: value for key, value in found.items() if key != "rope_theta"}
    if scaled != {"rope_type": "default", "partial_rotary_factor": 1.0}:
        raise UserError(f"rope_parameters of {kind} in config.json is {found}; expected rope_type=default alone.")
    return float(found["rope_theta"])
