"""Model of a parameter source: its parameters by the paths of jaxdp, and its keys of `config.model` where they are known."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import read_item
from jaxdp.interop.averaging import averaged_run
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.hf_config import model_keys
from jaxdp.interop.hf_folder import CONFIG, HuggingFaceFolder
from jaxdp.interop.open_source import open_source
from jaxdp.interop.safetensors_source import SafetensorsSource
from jaxdp.interop.source import ParameterSource
from jaxdp.json_files import read_json
from jaxdp.run_config import COMPUTE_KEYS
from jaxdp.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Parameters of another model, and what is known of it.

    Attributes:
        parameters: Parameters by their paths in jaxdp.
        model: Keys of `config.model`; empty if they are not known.
        options: Keys of the group of its task that a run of the same task takes where they are unset, by task.
        files: Folder with its config.json, tokenizer and other files of Hugging Face; None: it has none.
    """

    parameters: ParameterSource
    model: Mapping[str, Any]
    files: Path | None
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def open_model(text: str | os.PathLike[str], option: str = "init_from", *, average: str | None = None) -> ModelSource:
    """Opens the model that `init_from` names; see `open_source`.

    Args:
        text: Path or name.
        option: Name of the option that gives it, for messages.
        average: last:K or best:K: the mean of these checkpoints of a work directory; None: one checkpoint.

    Raises:
        UserError: There is no model of a known kind and family, or no checkpoints to average.
        DamageFound: It is not whole.
    """
    source = open_source(text, option)
    if average is not None:
        source = averaged_run(source, average)
    if isinstance(source, CheckpointSource):
        config = read_item(source.checkpoint, "config")
        model = config["model"]
        files = WorkDir(source.checkpoint.parent.parent).hugging_face
        known = {
            key: value for key, value in model.items() if key not in ("preset", *COMPUTE_KEYS) and value is not None
        }
        options = {config["task"]: config.get(config["task"], {})}
        return ModelSource(source, known, files if files.is_dir() else None, options)
    if isinstance(source, SafetensorsSource) and _is_hugging_face(source.path):
        folder = HuggingFaceFolder(source)
        options = {folder.spec.architecture.task: folder.task_options}
        return ModelSource(folder.initial_parameters, model_keys(folder.spec), folder.path, options)
    return ModelSource(source, {}, None)


def _is_hugging_face(path: Path) -> bool:
    config = path / CONFIG
    return config.is_file() and "model_type" in read_json(config, "the config.json of a Hugging Face model")


def keep_files(text: str, directory: WorkDir) -> None:
    """Copies the Hugging Face files of the model that a run starts from into its work directory, for a later export."""
    model = open_model(text)
    if model.files is None or directory.hugging_face.is_dir():
        return
    if isinstance(model.parameters, CheckpointSource):
        shutil.copytree(model.files, directory.hugging_face)
    else:
        HuggingFaceFolder(SafetensorsSource(model.files, ())).copy_files(directory.hugging_face)
