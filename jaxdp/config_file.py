"""Configuration files: packaged recipes, `get_config()`, and errors with file, line and key."""

import linecache
import os
import re
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ml_collections import ConfigDict

from jaxdp import config_values, defaults
from jaxdp.defaults import Config
from jaxdp.errors import UserCodeError, UserError
from jaxdp.nearest import closest, nearest
from jaxdp.paths import local_path
from jaxdp.user_code import user_place


def recipes_directory() -> Path:
    """Returns the directory of the recipes: `jaxdp/recipes` of an installed package, `configs` of a source tree."""
    package = Path(__file__).parent
    packaged = package / "recipes"
    return packaged if packaged.is_dir() else package.parent / "configs"


def find_config_file(name: str | os.PathLike[str]) -> Path:
    """Returns the file that `--config=NAME` means: a path, or the name of a packaged recipe.

    Args:
        name: Path of a Python file or of a run's `config.json`, or a recipe such as `quickstart`.

    Raises:
        UserError: Neither exists; the nearest recipe is named.
    """
    path = local_path(name, "--config")
    if path.is_file():
        return path
    recipes = {recipe.stem: recipe for recipe in sorted(recipes_directory().glob("*.py"))}
    if str(name) in recipes:
        return recipes[str(name)]
    match = closest(path.stem, recipes)
    hint = (
        f"; did you mean the recipe {match!r} (--config={match})?"
        if match
        else f"; the recipes are {', '.join(recipes)}."
    )
    kind = "is a directory" if path.is_dir() else "there is no such file and no recipe of that name"
    raise UserError(f"--config={name}: {kind}{hint}")


def run_config_file(path: Path) -> Config:
    """Runs a configuration file and returns what its `get_config()` returns.

    The file may import modules from its own folder, as a script may. The folder stays the last entry of `sys.path`:
    worker processes, which inherit `sys.path`, then find the modules of a task, and no installed package is shadowed.

    Raises:
        UserError: The file does not load, misspells a key, or returns no complete configuration.
    """
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        variables = runpy.run_path(str(path))
        _check_modules(variables, path)
        get_config = variables.get("get_config")
        config = get_config and get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # every error of the user's file is an error of the user
        if sentence := _why_no_such_value(error, path):
            raise UserError(sentence) from error
        raise UserCodeError(_why_it_does_not_load(error, path)) from error
    finally:
        sys.path.remove(folder)  # the first of that name
        if folder not in sys.path:
            sys.path.append(folder)
    if get_config is None:
        raise UserError(f"--config={path} defines no get_config(); see {recipes_directory()} for examples.")
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={path}: get_config() must return an ml_collections.ConfigDict, not "
            f"{type(config).__name__}; begin with jaxdp.defaults.get_config() and return it."
        )
    check_complete(config, f"--config={path}: the configuration")
    return cast(Config, config)


def _check_modules(variables: Mapping[str, Any], path: Path) -> None:
    """Checks that modules next to a configuration file are those that it has imported.

    Raises:
        UserError: Another file of the same name was imported before in this process.
    """
    for value in variables.values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        sibling, module = path.resolve().parent / f"{name}.py", sys.modules.get(name) if isinstance(name, str) else None
        found = getattr(module, "__file__", None)
        if found and sibling.is_file() and not sibling.samefile(found):
            raise UserError(
                f"--config={path} imports {name}, but this process has imported {found} under that name before, not "
                f"{sibling}: rename one of them, or start a new process."
            )


def flat_keys(values: Mapping[str, Any] | ConfigDict, prefix: str = "") -> list[str]:
    """Returns all keys as `group.key`, groups themselves included."""
    keys = []
    for key in values:
        keys.append(prefix + key)
        value = values[key]
        if isinstance(value, Mapping | ConfigDict):
            keys += flat_keys(value, f"{prefix}{key}.")
    return keys


def check_names(values: Mapping[str, Any]) -> None:
    """Checks the names of keys against the defaults.

    Groups that the defaults lack belong to registered tasks, which check them.

    Raises:
        UserError: A key is unknown (the nearest is named), or a group has a plain value or the reverse.
    """
    usual = defaults.get_config()
    known = flat_keys(usual)
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"config has the key {key!r}, which must be a string.")
        is_group, is_usual_group = isinstance(value, Mapping), key in usual and isinstance(usual[key], ConfigDict)
        if key in usual and is_group != is_usual_group:
            expected = TYPE_NAMES["ConfigDict" if is_usual_group else usual.get_type(key).__name__]
            raise UserError(f"{key}={value!r} must be {expected}.")
        if not is_group and key not in usual:
            raise UserError(f"config has an unknown key {key!r}{nearest(key, known)}")
        if is_usual_group:
            for name in flat_keys(value, f"{key}."):
                if name not in known:
                    raise UserError(f"config has an unknown key {name!r}{nearest(name, known)}")


def check_complete(values: Mapping[str, Any] | ConfigDict, what: str) -> None:
    """Raises UserError if a group or key of the defaults is missing; a missing group is named without its keys."""
    found = {*flat_keys(values), ""}
    missing = [key for key in flat_keys(defaults.get_config()) if key not in found and key.rpartition(".")[0] in found]
    if missing:
        more = " and more" if len(missing) > 3 else ""
        raise UserError(f"{what} lacks {', '.join(missing[:3])}{more}; begin with jaxdp.defaults.get_config().")


def _why_no_such_value(error: BaseException, path: Path) -> str | None:
    """Returns a message for an unknown key, with the nearest one, or a value of the wrong type; None for other errors."""
    frames = _frames(error, path)
    if not frames or not _is_of_config_dict(error):
        return None
    variables, line = frames[-1]
    where = f"--config={path}, line {line}"
    if key := _unknown_key(error):
        full = _with_groups(key, linecache.getline(str(path), line))
        return f"{where}: unknown configuration key {full!r}{nearest(full, _known_keys(variables))}"
    mismatch = _wrong_type(error)
    return mismatch and f"{where}: {mismatch}"


def _why_it_does_not_load(error: BaseException, path: Path) -> str:
    """Returns a message with the file, the line and the error."""
    frames = _frames(error, path)
    line = frames[-1][1] if frames else None
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    place = f" in line {line}" if line else ""
    module = user_place(error)
    if module and module.file != str(path):  # a module that the file imports
        place += f", raised by {module}"
    return (
        f"--config={path} does not load: {type(error).__name__}{place}: {' '.join(str(error).split())}".rstrip(".")
        + "."
    )


def _frames(error: BaseException, path: Path) -> list[tuple[Mapping[str, Any], int]]:
    """Returns variables and line of each frame of the file in an error's traceback, innermost last."""
    return [
        (frame.f_locals, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(path)
    ]


def _known_keys(variables: Mapping[str, Any]) -> list[str]:
    """Returns all keys of the largest configuration among the variables of `get_config`, which may add groups."""
    configurations = [value for value in variables.values() if isinstance(value, ConfigDict)]
    return max(map(flat_keys, (defaults.get_config(), *configurations)), key=len)


def _unknown_key(error: BaseException) -> str | None:
    """Returns the key that a locked ConfigDict lacks, from the error of `ml_collections`; None for other errors."""
    if not isinstance(error, AttributeError | KeyError):
        return None
    text = str(error)
    match = re.match(r'\W*Key "([^"]+)" does not exist', text) or re.match(r"\W+(\w+)\W", text)
    return match and match[1]


def _wrong_type(error: BaseException) -> str | None:
    """Returns a message for a value of the wrong type, from the error of `ml_collections`; None for other errors."""
    pattern = r"Could not override field '(\w+)'.*original type <class '([\w.]+)'> and cannot be casted to type <class '([\w.]+)'>"
    match = re.match(pattern, str(error), re.DOTALL)
    if not match:
        return None
    key, found, expected = (
        match[1],
        *(TYPE_NAMES.get(name.rpartition(".")[2], f"of type {name}") for name in match.groups()[1:]),
    )
    return f"{key} must be {expected}, not {found}."


TYPE_NAMES = {kind.__name__: words for kind, words in config_values.TYPE_NAMES.items()} | {
    "ConfigDict": "a group of keys"
}
"""Types of configuration values, for messages."""


def _is_of_config_dict(error: BaseException) -> bool:
    """Returns whether ml_collections itself raised the error rather than other code of the file."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "ml_collections" in frames[-1].filename


def _with_groups(key: str, line: str) -> str:
    """Returns the key with the groups before it in this line: `optim.lr` for `config.optim.lr = 1`."""
    groups = re.search(r"\w+((?:\.\w+|\[['\"]\w+['\"]\])*?)[.\[]['\"]?" + re.escape(key) + r"\b", line)
    names: Sequence[Any] = re.findall(r"\w+", groups[1]) if groups else ()
    return ".".join([*names, key])
