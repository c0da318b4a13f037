"""Configuration loading: files, command line overrides, checks, and the `config.json` of a run.

It does not import jax, so that wrong usage is reported at once.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from jaxdp import defaults
from jaxdp.config_file import (
    TYPE_NAMES,
    check_complete,
    check_names,
    find_config_file,
    flat_keys,
    run_config_file,
)
from jaxdp.config_values import check_type
from jaxdp.defaults import Config
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.nearest import nearest
from jaxdp.quoting import shortened
from jaxdp.redact import masked_values
from jaxdp.run_config import COMPUTE_KEYS, DURATIONS, GROUPS, RunConfig

ConfigLike = ConfigDict | Mapping[str, Any] | RunConfig
"""Configuration from a file, from Python, or already parsed."""

_OVERRIDE_PREFIXES = ("--config.", "--noconfig.", "-config.", "-noconfig.")


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Loads a configuration, applies command line overrides and locks it.

    Args:
        path: A Python file with `get_config()`, the name of a packaged recipe such as
            `quickstart`, or the `config.json` of a run.
        overrides: Options `--config.KEY=VALUE`, read by `ml_collections.config_flags`;
            `--config.KEY=None` unsets an optional key.

    Raises:
        UserError: The file does not load, a key is unknown (the nearest is named), a value has the wrong type
            (the expected one is named) or is out of its range, or not exactly one duration is set.
    """
    overrides = _override_list(overrides)
    file = find_config_file(path)
    config = _as_config_dict(read_run_config(file)) if file.suffix == ".json" else run_config_file(file)
    _check_override_names(overrides, flat_keys(config))
    unset = _keys_to_unset(overrides)
    values = flags.FlagValues()
    arguments = ["jaxdp", *(override for override in overrides if _key(override) not in unset)]
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        rest = values(arguments)[1:]
    except flags.IllegalFlagValueError as error:
        raise UserError(_wrong_type(str(error), config)) from error
    except (
        flags.Error,
        ValueError,
    ) as error:  # a flag without a value, or `--noconfig.KEY` of a key that is not boolean
        raise UserError(_not_understood(str(error))) from error
    if rest:
        raise UserError(f"{rest[0]!r} is not understood; values are given as --config.KEY=VALUE.")
    config = holder.value
    with config.ignore_type():
        for key in unset:
            config.update_from_flattened_dict({key: None})
    given = set(config_flags.get_override_values(values["config"]))
    _settle_duration(config, given)
    if "init_from" in given and config.init_from:
        _leave_model_to_source(config, given)
    parse_config(config)
    return config.lock()


def parse_config(config: ConfigLike) -> RunConfig:
    """Returns the typed, checked configuration; checks and messages are the same for every origin.

    Args:
        config: Configuration from `load_config` or based on `jaxdp.defaults.get_config()`; or a dict of the keys that
            differ from the defaults, with a dict for each group: `{"total_steps": 100, "data": {"path": "books"}}`.

    Raises:
        UserError: A key is missing, unknown, of another type or out of its range, or not exactly one duration is set.
    """
    if isinstance(config, RunConfig):
        return config
    usual = defaults.get_config()
    if isinstance(config, ConfigDict):
        values = (
            # Its annotation lacks FrozenConfigDict, which its documentation has.
            ConfigDict(cast(Any, config))
            if isinstance(config, FrozenConfigDict)
            else config.copy_and_resolve_references()
        ).to_dict()
        check_complete(values, "config")
    elif isinstance(config, Mapping):
        values = config
    else:
        raise UserError(
            "config must be a ConfigDict from jaxdp.load_config() or jaxdp.defaults.get_config(), or a dict of keys that "
            f"differ from the defaults, found {type(config).__name__}."
        )
    check_names(values)
    return _typed(values, usual)


def _typed(values: Mapping[str, Any], usual: Config) -> RunConfig:
    """Returns the defaults with these values, whose names are checked; keys have the order of `defaults.py`."""
    merged: dict[str, Any] = {}
    for name, default in default_values().items():
        if isinstance(default, Mapping):
            given, group = values.get(name, {}), usual[name]
            merged[name] = {key: _cast(key, given.get(key, group[key]), group, name) for key in default}
        else:
            merged[name] = _cast(name, values.get(name, usual[name]), usual)
    own = {
        name: value for name, value in values.items() if name not in merged
    }  # groups of registered tasks, which check them
    groups = {name: kind(**merged.pop(name)) for name, kind in GROUPS.items()}
    built_in = {name: merged.pop(name) for name, value in [*merged.items()] if isinstance(value, Mapping)}
    return RunConfig(**merged, **groups, task_groups=built_in | own)


def _cast(key: str, value: Any, usual: Config, group: str = "") -> Any:
    """Converts a value to the type of its key (list to tuple, int to float); in groups of tasks it checks the type too."""
    kind = usual.get_type(key)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if group and group not in GROUPS:
        check_type(f"{group}.{key}", value, kind, may_be_unset=usual[key] is None)
    return value


def _override_list(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides as a list; a single string is one override."""
    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    for override in overrides:
        if not isinstance(override, str):
            raise UserError(
                f"overrides must be strings such as '--config.total_steps=10', found {override!r} ({type(override).__name__})."
            )
    return overrides


def _key(override: str) -> str:
    """Returns the key of an override: `optim.name` for `--config.optim.name=adam`."""
    return override.split("=", 1)[0].lstrip("-").removeprefix("config.")


def _keys_to_unset(overrides: Sequence[str]) -> set[str]:
    """Returns the optional keys whose last value on the command line is None."""
    last = {_key(override): override.partition("=")[2] for override in overrides if "=" in override}
    usual = defaults.get_config()
    optional = {key for key in flat_keys(usual) if _value(usual, key) is None}
    return {key for key, value in last.items() if value == "None" and key in optional}


def _value(config: Config, key: str) -> Any:
    """Returns the value of `group.key`."""
    for name in key.split("."):
        config = config[name]
    return config


def _check_override_names(overrides: Sequence[str], known: Sequence[str]) -> None:
    for override in overrides:
        if not override.startswith("-"):
            continue  # the value of the flag before it
        prefix = next((p for p in _OVERRIDE_PREFIXES if override.startswith(p)), None)
        name = override.split("=", 1)[0]
        if prefix is None:
            raise UserError(f"unknown option {name}; configuration values are given as --config.KEY=VALUE.")
        key = name[len(prefix) :]
        if key not in known:
            raise UserError(f"unknown configuration key {key!r}{nearest(key, known)}")


def _wrong_type(message: str, config: Config) -> str:
    """Returns absl's message `flag --config.a.b=x: reason` with the expected type."""
    assignment = message.removeprefix("flag ").split(": ", 1)[0]
    key = assignment.split("=", 1)[0].removeprefix("--config.").removeprefix("--noconfig.")
    *groups, last = key.split(".")
    for group in groups:
        config = config[group]
    kind = config.get_type(last)
    if kind is ConfigDict:
        return f"{assignment}: {key} is a group of keys; set one of them, --config.{key}.KEY=VALUE."
    return f"{assignment}: {key} must be {TYPE_NAMES.get(kind.__name__, kind.__name__)}."


def _not_understood(message: str) -> str:
    """Returns absl's message about a flag with the expected form."""
    start, flag, rest = message.partition("--")
    if start == "Missing value for flag ":
        return f"{flag}{rest} has no value; expected {flag}{rest}=VALUE."
    return f"a value of the configuration is not understood ({message.split('. ')[0]}); expected --config.KEY=VALUE."


def _settle_duration(config: ConfigDict, overridden: set[str]) -> None:
    """Unsets the other durations if the command line sets one."""
    given = [key for key in DURATIONS if key in overridden]
    if len(given) > 1:
        raise UserError(
            f"exactly one of {', '.join(DURATIONS)} must be set; the command line gives {' and '.join(given)}."
        )
    with config.ignore_type():
        for key in DURATIONS:
            if given and key not in given:
                config[key] = None


def _leave_model_to_source(config: ConfigDict, overridden: set[str]) -> None:
    """Unsets the model of the file, which the model of `--config.init_from` replaces, except for keys of the command line."""
    model = cast(ConfigDict, config.model)
    with config.ignore_type():
        for key in model:
            if key not in COMPUTE_KEYS and f"model.{key}" not in overridden:
                model[key] = None


def to_json(config: RunConfig) -> dict[str, Any]:
    """Returns the configuration as plain JSON values: tuples become lists, unset keys null.

    Secrets in URLs are masked, because `config.json`, checkpoints, reports and experiment trackers contain these
    values and are shared. The keys that hold URLs may change on resume.
    """
    return masked_values(json.loads(json.dumps(_plain(config))))


def _plain(config: RunConfig) -> dict[str, Any]:
    """Returns the keys as nested dicts, with the groups of tasks at the top level."""
    values = {}
    for name, value in dataclasses.asdict(config).items():
        values |= value if name == "task_groups" else {name: value}
    return values


def from_json(values: Mapping[str, Any]) -> RunConfig:
    """Returns the configuration from the values of `to_json`; keys that were added later have their defaults."""
    return parse_config(_without_null(values))


def default_values() -> dict[str, Any]:
    """Returns all keys with their defaults, in the format of `to_json`."""
    return json.loads(defaults.get_config().to_json())


def _without_null(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys that are set."""
    return {
        key: _without_null(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _as_config_dict(config: RunConfig) -> Config:
    """Returns the same configuration as a ConfigDict that the command line can change."""
    changed = defaults.get_config().unlock()
    with changed.ignore_type():
        for name, value in _plain(config).items():
            if isinstance(value, Mapping) and name in changed:
                changed[name].update(value)
            else:
                changed[name] = ConfigDict(value) if isinstance(value, Mapping) else value
    return changed


def read_run_config(path: Path) -> RunConfig:
    """Reads the `config.json` of a run.

    Raises:
        UserError: The file cannot be read, or is not a configuration of jaxdp.
    """
    values = read_json(
        path,
        "the config.json of a run; restore it from a copy, or from one of its checkpoints (`jaxdp inspect --json`)",
    )
    try:
        return from_json(values)
    except (UserError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as a jaxdp configuration: {shortened(str(error).rstrip('.'), 200)}."
        ) from error
