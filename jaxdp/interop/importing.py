"""Import of a Hugging Face folder: a work directory that every command reads, or nothing."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.parameters_only import map_parameters, save_parameters
from jaxdp.checkpoint.run_files import describe_run_files
from jaxdp.config import parse_config, to_json
from jaxdp.data.tokenizers.conversion import why_no_tokenizer
from jaxdp.data.vocabularies import Vocabularies, save_vocabularies, vocabulary_files
from jaxdp.errors import UserError
from jaxdp.hardware.host_memory import release_freed_memory
from jaxdp.interop.hf_folder import HuggingFaceFolder
from jaxdp.interop.open_source import open_source
from jaxdp.interop.proof import prove
from jaxdp.interop.safetensors_source import SafetensorsSource
from jaxdp.model import parameter_shapes
from jaxdp.report.terminal import print_status, quantity
from jaxdp.tasks.make import make_task
from jaxdp.tasks.resolved_config import resolve
from jaxdp.trees import num_elements
from jaxdp.workdir import WorkDir

RECORD = "import.json"
"""File next to the copies in `hugging_face/`: dtype of each tensor, and where the model comes from."""


def open_folder(text: str | os.PathLike[str], option: str) -> HuggingFaceFolder:
    """Opens a Hugging Face folder by path or Hub name.

    Raises:
        UserError: It is none.
    """
    source = open_source(text, option)
    if not isinstance(source, SafetensorsSource) or not source.path.is_dir():
        raise UserError(
            f"{option}={os.fspath(text)} is {source.describe()}, expected a Hugging Face folder with config.json."
        )
    return HuggingFaceFolder(source)


def import_model(folder: str | os.PathLike[str], workdir: str | os.PathLike[str], length: int | None = None) -> Path:
    """Imports a Hugging Face folder into a new work directory, one tensor at a time, and proves that it computes the same.

    Args:
        folder: Folder, or name on the Hub with `hf:` before it.
        workdir: Work directory; it must not exist or be empty.
        length: `data.length`, the tokens of a sequence, up to the model's context; None: the context, of rotary positions a
            shorter one if it is long.

    Returns:
        The work directory.

    Raises:
        UserError: The folder holds no model that jaxdp can express, or the model cannot have the length; nothing is left
            behind.
        DamageFound: A file of the folder is not whole.
    """
    opened = open_folder(folder, "--from")
    spec, parameters = opened.spec, opened.parameters
    vocabularies = Vocabularies(tokenizer=opened.tokenizer, labels=opened.labels)
    config = parse_config(opened.run_values(length))
    task = make_task(config, vocabularies)
    config = resolve(config, task, spec.model["vocab_size"])
    with new_directory(WorkDir(workdir).root, "--workdir") as root:
        directory = WorkDir(root)
        directory.config.write_text(json.dumps(to_json(config), indent=2) + "\n", encoding="utf-8")
        save_vocabularies(vocabularies, directory, replace=True)
        opened.copy_files(directory.hugging_face)
        record = {"source": str(folder), "architecture": spec.architecture_name, "dtypes": parameters.dtypes}
        (directory.hugging_face / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        checkpoint = save_parameters(
            directory.checkpoints,
            0,
            parameters.arrays,
            parameters.read,
            to_json(config),
            run_files=describe_run_files(vocabulary_files(vocabularies, directory).values()),
        )
        release_freed_memory()  # of the largest tensor, which the proof would hold in addition to the mapped parameters
        sentence = prove(opened.model_config, map_parameters(checkpoint), opened.tensors, opened.config)
    numbers = quantity(num_elements(parameter_shapes(opened.model_config)))
    print_status(f"{opened.path}: {spec.architecture_name} with {numbers} parameters, task={config.task}; {sentence}")
    _warn(opened)
    if length is None and config.data.length < spec.max_length:
        print_status(_shortened(config.data.length, spec.max_length))
    return WorkDir(workdir).root


@contextlib.contextmanager
def new_directory(root: Path, option: str) -> Iterator[Path]:
    """Yields a directory that takes its place if the body succeeds, and is deleted if it does not.

    Raises:
        UserError: Something is there already, or nothing can be written there.
    """
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(f"{option}={root} exists already; choose another directory, or move it away.")
    unfinished = root.with_name(f"{root.name}.unfinished.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        with contextlib.suppress(FileNotFoundError):
            root.rmdir()
        unfinished.rename(root)
    except OSError as error:
        raise UserError(
            f"{option}={root} cannot be written ({error.strerror or error}); choose another directory."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _warn(opened: HuggingFaceFolder) -> None:
    """Prints what a user should know about tokens."""
    vocab_size = opened.spec.model["vocab_size"]
    if opened.tokenizer is None:
        print_status(why_no_tokenizer(opened.path))
    elif opened.tensors.tokenizer is None:
        print_status(f"{opened.path} has no tokenizer.json; that of the work directory is made of its vocabulary files")
    outside = sorted(
        f"{key}={value}"
        for key, value in opened.config.items()
        if key.endswith("_token_id") and _is_outside(value, vocab_size)
    )
    if outside:
        print_status(
            f"{', '.join(outside)} of config.json is outside the vocabulary of {vocab_size}; it is kept as it is"
        )


def _shortened(length: int, context: int) -> str:
    """Returns the sentence on a `data.length` below the context."""
    return (
        f"data.length is {length} of the model's {context} positions, to save memory; rotary positions have no table, so "
        f"nothing is lost: import again with --length=N for up to {context}, or train with --config.init_from and "
        "--config.data.length=N"
    )


def _is_outside(value: Any, vocab_size: int) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(each, int) and not 0 <= each < vocab_size for each in values)
