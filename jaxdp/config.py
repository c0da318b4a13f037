"""Configuration at the edges: files, command line values, ranges, JSON.

Nothing here imports jax, so that wrong usage is reported at once.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from jaxdp import defaults
from jaxdp.config_file import TYPE_NAMES, check_keys, find_config_file, flat_keys, run_config_file
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.nearest import nearest
from jaxdp.quoting import shortened
from jaxdp.redact import masked_values

DURATIONS = ("total_steps", "total_epochs", "total_tokens")

TEST_DATA = ("test_path", "test_split")
"""Keys of `data` that `jaxdp eval --split=test` alone looks at."""

DATA_PLACES = ("path", "eval_path", "target_path", "eval_target_path")
"""Keys of `data` and of the entries of its mixture that say where files are."""

MAX_CPU_DEVICES = 256
"""More fake devices than this only hang: each is a thread that waits for all others."""

_MAX_SECS = 10**8
"""Seconds, three years: JAX's own timeouts, which follow from these, are 32-bit integers."""

_NOT_NEGATIVE = ("0 or more", lambda value: value >= 0)
_OFF_OR_MORE = ("0 (off) or more", lambda value: value >= 0)
_AT_LEAST_ONE = ("1 or more", lambda value: value >= 1)
_SHARE = ("at least 0 and below 1", lambda value: 0 <= value < 1)

_RANGES = {
    "seed": ("from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32),  # what a random key takes in
    "global_batch_size": _AT_LEAST_ONE,
    "data.temperature": ("above 0", lambda value: value > 0),
    "data.shuffle_buffer": _NOT_NEGATIVE,
    "data.num_workers": _NOT_NEGATIVE,
    "data.prefetch_batches": _AT_LEAST_ONE,
    "model.vocab_size": _AT_LEAST_ONE,
    "optim.ema_decay": _SHARE,
    "optim.label_smoothing": _SHARE,
    "optim.z_loss": _NOT_NEGATIVE,
    "optim.spike_factor": ("0 (off) or above 1", lambda value: value == 0 or value > 1),
    "optim.max_skipped_in_a_row": _AT_LEAST_ONE,
    "optim.max_rollbacks": _NOT_NEGATIVE,
    "parallel.cpu_devices": (f"from 1 to {MAX_CPU_DEVICES}", lambda value: 1 <= value <= MAX_CPU_DEVICES),
    "parallel.bucket_mb": ("above 0", lambda value: value > 0),
    "parallel.check_every_steps": _OFF_OR_MORE,
    "parallel.watchdog_secs": (f"from 0 (off) to {_MAX_SECS}", lambda value: 0 <= value <= _MAX_SECS),
    "parallel.init_timeout_secs": (f"above 0, at most {_MAX_SECS}", lambda value: 0 < value <= _MAX_SECS),
    "eval.every_steps": _OFF_OR_MORE,
    "eval.num_batches": _NOT_NEGATIVE,
    "eval.patience": _OFF_OR_MORE,
    "eval.num_scored": _OFF_OR_MORE,
    "eval.num_beams": _AT_LEAST_ONE,
    "checkpoint.every_steps": _OFF_OR_MORE,
    "checkpoint.every_minutes": _OFF_OR_MORE,
    "checkpoint.keep_latest": _AT_LEAST_ONE,
    "checkpoint.keep_best": _NOT_NEGATIVE,
    "checkpoint.keep_every_steps": _OFF_OR_MORE,
    "checkpoint.grace_secs": _NOT_NEGATIVE,
    "log.every_steps": _OFF_OR_MORE,
    "log.samples": _OFF_OR_MORE,
}
"""Numbers that nothing below checks; the rest is checked where it is used."""

_OVERRIDE_PREFIXES = ("--config.", "--noconfig.", "-config.", "-noconfig.")


def load_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> ConfigDict:
    """Loads a configuration with command line values on top, and locks it.

    Args:
        path: A Python file with `get_config()`, the name of a packaged recipe such as
            `quickstart`, or the `config.json` of a run.
        overrides: `--config.KEY=VALUE` as `ml_collections.config_flags` reads them;
            `--config.KEY=None` unsets an optional key.

    Raises:
        UserError: The file does not load, a key is unknown (the nearest is
            named), a value has the wrong type (the expected one is named) or is
            out of its range, or not exactly one duration is given.
    """
    overrides = _override_list(overrides)
    file = find_config_file(path)
    config = read_run_config(file).unlock() if file.suffix == ".json" else run_config_file(file)
    _check_override_names(overrides, flat_keys(config))
    unset = _keys_to_unset(overrides)
    values = flags.FlagValues()
    arguments = ["jaxdp", *(override for override in overrides if _key(override) not in unset)]
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        rest = values(arguments)[1:]
    except flags.IllegalFlagValueError as error:
        raise UserError(_wrong_type(str(error), config)) from error
    except (flags.Error, ValueError) as error:  # a flag without its value, or `--noconfig.KEY` of what is not True or False
        raise UserError(_not_understood(str(error))) from error
    if rest:
        raise UserError(f"{rest[0]!r} is not understood; values are given as --config.KEY=VALUE.")
    config = holder.value
    with config.ignore_type():
        for key in unset:
            config.update_from_flattened_dict({key: None})
    _settle_duration(config, set(config_flags.get_override_values(values["config"])))
    return check_config(config).lock()


def check_config(config: ConfigDict) -> ConfigDict:
    """Checks a configuration, wherever it was made or changed, and returns it; of a frozen one a plain copy.

    Args:
        config: From `load_config`, or built on `jaxdp.defaults.get_config()`.

    Raises:
        UserError: It is no ConfigDict, a key is missing, unknown, of another type or out of
            its range, or not exactly one duration is set.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config must be a ConfigDict from jaxdp.load_config() or jaxdp.defaults.get_config(), found {type(config).__name__}."
        )
    if isinstance(config, FrozenConfigDict):
        config = ConfigDict(config)
    check_keys(config)
    _check_duration(config, "the configuration")
    _check_ranges(config)
    _check_patience(config)
    return config


def _override_list(overrides: Sequence[str]) -> list[str]:
    """The overrides of a caller; a single string is one of them."""
    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    for override in overrides:
        if not isinstance(override, str):
            raise UserError(f"overrides must be strings such as '--config.total_steps=10', found {override!r} ({type(override).__name__}).")
    return overrides


def _key(override: str) -> str:
    """`optim.name` of `--config.optim.name=adam`."""
    return override.split("=", 1)[0].lstrip("-").removeprefix("config.")


def _keys_to_unset(overrides: Sequence[str]) -> set[str]:
    """Optional keys whose last value on the command line is None."""
    last = {_key(override): override.partition("=")[2] for override in overrides if "=" in override}
    usual = defaults.get_config()
    optional = {key for key in flat_keys(usual) if _value(usual, key) is None}
    return {key for key, value in last.items() if value == "None" and key in optional}


def _value(config: ConfigDict, key: str) -> Any:
    """The value of `group.key`."""
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


def _wrong_type(message: str, config: ConfigDict) -> str:
    """absl's `flag --config.a.b=x: why` with the expected type."""
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
    """absl's remark about a flag, with the form that is expected."""
    start, flag, rest = message.partition("--")
    if start == "Missing value for flag ":
        return f"{flag}{rest} has no value; expected {flag}{rest}=VALUE."
    return f"a value of the configuration is not understood ({message.split('. ')[0]}); expected --config.KEY=VALUE."


def _settle_duration(config: ConfigDict, overridden: set[str]) -> None:
    """Leaves exactly one duration: one given on the command line replaces the file's."""
    given = [key for key in DURATIONS if key in overridden]
    if not given:
        return _check_duration(config, "the configuration file")
    with config.ignore_type():
        for key in DURATIONS:
            if key not in given:
                config[key] = None
    _check_duration(config, "the command line")


def _check_duration(config: ConfigDict, where: str) -> None:
    """Raises UserError unless exactly one duration is set."""
    chosen = [key for key in DURATIONS if config[key] is not None]
    if len(chosen) != 1:
        found = f"{where} gives {' and '.join(chosen)}; set the others to None" if chosen else "none is given"
        raise UserError(f"exactly one of {', '.join(DURATIONS)} must be set; {found}.")
    if not 0 < config[chosen[0]] < math.inf:
        raise UserError(f"{chosen[0]}={config[chosen[0]]} must be above 0 and finite.")


def _check_ranges(config: ConfigDict) -> None:
    for key, (expected, is_valid) in _RANGES.items():
        value = _value(config, key)
        if value is not None and not (math.isfinite(value) and is_valid(value)):
            raise UserError(f"{key}={value} must be {expected}.")


def _check_patience(config: ConfigDict) -> None:
    if config.eval.patience and not config.eval.every_steps:
        raise UserError(
            f"eval.patience={config.eval.patience} counts evaluations, but with eval.every_steps=0 there is none before "
            "the last step: set eval.every_steps above 0, or eval.patience=0."
        )


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the configuration as plain JSON values: tuples become lists, unset keys null.

    Secrets in URLs are masked, since what is made of this is kept and shared: `config.json`, checkpoints,
    reports, experiment trackers. The keys that hold URLs may change on resume.
    """
    return masked_values(json.loads(config.to_json()))


def from_json(values: Mapping[str, Any]) -> ConfigDict:
    """The configuration that `to_json` wrote."""
    config = defaults.get_config().unlock()
    _update(config, values)
    return config.lock()


def _update(config: ConfigDict, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in config:
                config[key] = ConfigDict()
            _update(config[key], value)
        elif value is not None:
            config[key] = tuple(value) if isinstance(value, list) else value


def read_run_config(path: Path) -> ConfigDict:
    """A run's `config.json`.

    Raises:
        UserError: it is not what jaxdp wrote.
    """
    values = read_json(path, "the config.json of a run; restore it from a copy, or from one of its checkpoints (`jaxdp inspect --json`)")
    try:
        return from_json(values)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as a jaxdp configuration: {shortened(str(error), 200)}.") from error
