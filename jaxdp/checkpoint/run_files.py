"""Check of the vocabularies and the configuration of a work directory against a checkpoint.

The manifest of a checkpoint has the SHA-256 of the tokenizers and labels that its run was trained with, and the
item `config` is the run's `config.json`. Two swapped labels, or another rotary base, would change the predictions
of the same parameters.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.files import changed_files, describe_file
from jaxdp.checkpoint.manifest import Manifest, read_item, require_manifest
from jaxdp.config import read_run_config, to_json
from jaxdp.config_diff import changed_keys, listed_changes
from jaxdp.errors import DamageFound, UserError
from jaxdp.workdir import WorkDir


def describe_run_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Returns size and SHA-256 of files of a work directory, by name, for the manifest of a checkpoint."""
    return {path.name: describe_file(path) for path in paths}


def check_run_files(checkpoint: Path, directory: WorkDir) -> None:
    """Checks that the vocabularies of a run are those that a checkpoint was trained with.

    Old checkpoints without recorded vocabularies pass.

    Raises:
        DamageFound: A file is missing or changed, or the manifest is damaged.
        UserError: A file cannot be read.
    """
    problems = find_run_damage(require_manifest(checkpoint), checkpoint, directory)
    if problems:
        raise DamageFound("; ".join(problems) + ".")


def find_run_damage(manifest: Manifest, checkpoint: Path, directory: WorkDir) -> list[str]:
    """Returns a sentence for each vocabulary of a run that is missing or differs from the checkpoint's."""
    problems = changed_files(directory.root, manifest.run_files or {})
    if not problems:
        return []
    return [*problems, f"checkpoint {checkpoint.name} was trained with the file as it was then: restore it from a copy"]


def check_run_config(checkpoint: Path, path: Path) -> None:
    """Checks that the configuration file of a run is consistent with a checkpoint.

    Keys that may change when a run is resumed may differ, and so may the location of the data.

    Args:
        checkpoint: Directory of the checkpoint.
        path: Path of the run's `config.json`.

    Raises:
        UserError: Keys differ, and the message shows both values of each; or the file is not a configuration.
        DamageFound: The checkpoint's copy is damaged.
    """
    saved, current = read_item(checkpoint, "config"), to_json(read_run_config(path))
    differences = changed_keys(saved, current)
    if differences:  # perhaps only keys added to `model` since; importing the model takes time
        differences = changed_keys(with_preset(saved), with_preset(current))
    if differences:
        raise UserError(
            f"{path} is not the configuration that checkpoint {checkpoint.name} was trained with:\n"
            + listed_changes(differences, "in the checkpoint", "in the file")
            + "\nGive these keys the checkpoint's values; a run with other values needs a work directory of its own."
        )


def with_preset(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fills keys that were added to `model` since a configuration was saved with the values of its preset.

    Such a key is unset by default, which stands for the value of the preset.
    """
    from jaxdp.model import (  # imports jax, which `jaxdp inspect` does without
        PRESETS,
        preset_values,
    )

    model = config.get("model", {})
    if model.get("preset") not in PRESETS:
        return config
    return {**config, "model": preset_values(model["preset"], model)}


def run_problems(checkpoint: Path) -> list[str]:
    """Returns a sentence for each file of a run that is inconsistent with a checkpoint.

    Args:
        checkpoint: Directory of an undamaged checkpoint; outside a work directory nothing is compared.
    """
    directory = run_of(checkpoint)
    if directory is None:
        return []
    problems = find_run_damage(require_manifest(checkpoint), checkpoint, directory)
    if not os.path.lexists(directory.config):
        return [
            *problems,
            f"{directory.config} is missing; `jaxdp inspect {checkpoint} --json` shows the checkpoint's copy",
        ]
    try:
        check_run_config(checkpoint, directory.config)
    except UserError as error:
        problems.append(str(error).rstrip("."))
    return problems


def run_of(checkpoint: Path) -> WorkDir | None:
    """Returns the work directory of a checkpoint; None for a checkpoint elsewhere, such as a copy."""
    directory = WorkDir(checkpoint.parent.parent)
    is_run = any(map(os.path.lexists, (directory.config, directory.metrics, directory.tokenizer)))
    return directory if directory.checkpoints == checkpoint.parent and is_run else None
