"""Export of a checkpoint as a Hugging Face folder: config.json, safetensors, tokenizer and generation settings."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.checkpoint.manifest import read_item, require_manifest
from jaxdp.checkpoint.remote_copy import read_directory
from jaxdp.config import from_json
from jaxdp.data.vocabularies import Vocabularies, load_vocabularies
from jaxdp.errors import UserError
from jaxdp.interop.adapters import MergedAdapters, write_adapter
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.extraction import check_dtype, open_weights
from jaxdp.interop.families.family import Family
from jaxdp.interop.families.registry import FAMILIES
from jaxdp.interop.hf_config import fitting_family, model_differences, read_model, write_model
from jaxdp.interop.hf_folder import CONFIG, GENERATION, START_ID, TOKENIZER, HuggingFaceFolder, read_labels
from jaxdp.interop.importing import RECORD, new_directory
from jaxdp.interop.mapping import exported
from jaxdp.interop.proof import prove
from jaxdp.interop.safetensors_source import INDEX, SINGLE, SafetensorsSource, folder_files
from jaxdp.interop.source import ArraySpec, ParameterSource
from jaxdp.interop.views import Unscanned, WithZeroBiases
from jaxdp.json_files import read_json
from jaxdp.model import TransformerConfig, parameter_shapes
from jaxdp.model.lora import adapter_factor
from jaxdp.paths import resolved_path
from jaxdp.report.terminal import print_status
from jaxdp.run_config import RunConfig
from jaxdp.safetensors_file import write_arrays
from jaxdp.tasks.architecture import architecture
from jaxdp.tasks.make import make_task
from jaxdp.trees import named_leaves
from jaxdp.workdir import WorkDir

SHARD_BYTES = 5 * 10**9
"""Largest shard; a larger model is divided."""

METADATA = {"format": "pt"}
"""Metadata that transformers expects in a safetensors file."""


def export_model(
    workdir: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    step: str = "latest",
    weights: str = "ema",
    dtype: str | None = None,
    adapter: bool = False,
    average: str | None = None,
) -> Path:
    """Exports a checkpoint as a Hugging Face folder, one tensor at a time, and proves that it computes the same.

    Args:
        workdir: Work directory of a run or of an import.
        to: Folder; it must not exist or be empty.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        dtype: float32, bfloat16 or float16; None: of an import that of each tensor, else float32.
        adapter: Whether to write low-rank adapters and a classifier alone, as PEFT reads them, in place of the model
            with its adapters merged.
        average: last:K or best:K averages these checkpoints; None: one checkpoint.

    Returns:
        The folder.

    Raises:
        UserError: No family of Hugging Face can express the model; nothing is left behind.
        DamageFound: The checkpoint is not what was written.
    """
    check_dtype(dtype)
    if adapter and dtype is not None:
        raise UserError(f"adapters are written in float32; leave out dtype={dtype}.")
    directory = read_directory(workdir)
    saved = open_weights(directory, step, weights, average)
    config = from_json(read_item(saved.checkpoint, "config"))
    vocabularies = load_vocabularies(directory)
    assert config.model.vocab_size is not None, "a checkpoint has the size of its embedding"
    model = architecture(config, make_task(config, vocabularies), config.model.vocab_size)
    lora, model = model, dataclasses.replace(model, lora_rank=0)
    family, name, model, theirs = _described(config, model, vocabularies, directory)
    if adapter:
        return _export_adapter(saved, family, name, lora, config.init_from, resolved_path(to, "--to"))
    is_imported = require_manifest(saved.checkpoint).step == 0
    dtypes = _recorded_dtypes(directory) if dtype is None and is_imported else {}
    shapes = {path: tuple(leaf.shape) for path, leaf in named_leaves(parameter_shapes(unscanned(model)))}
    parameters: ParameterSource = Unscanned(saved)
    if lora.lora_rank:
        parameters = MergedAdapters(parameters, adapter_factor(lora.lora_rank, lora.lora_alpha))
    parameters = WithZeroBiases(parameters, shapes)
    specs, make = exported(
        parameters,
        family,
        family.architectures[name],
        lambda tensor: dtypes.get(tensor, dtype or "float32"),
        is_tied=model.tie_embeddings,
    )
    if dtype is not None:
        theirs = theirs | {"dtype" if "dtype" in theirs else "torch_dtype": dtype}
    with new_directory(resolved_path(to, "--to"), "--to") as folder:
        _write_files(folder, directory, theirs)
        _write_tensors(folder, specs, make)
        written = HuggingFaceFolder(SafetensorsSource(folder, folder_files(folder)))
        _check_values(parameters, written)
        sentence = prove(unscanned(model), written.parameters.read_all(), written.tensors, written.config)
    print_status(f"{saved.describe()} -> {resolved_path(to, '--to')}: {name}; {sentence}")
    return resolved_path(to, "--to")


def _export_adapter(
    saved: CheckpointSource, family: Family, name: str, model: TransformerConfig, base: str | None, to: Path
) -> Path:
    if not model.lora_rank:
        raise UserError(f"{saved.describe()} has no adapters (model.lora_rank=0); export it without --adapter.")
    with new_directory(to, "--to") as folder:
        modules = write_adapter(folder, Unscanned(saved), family, family.architectures[name], model, base)
    print_status(f"{saved.describe()} -> {to}: adapters of {len(modules)} modules of {name}, which PEFT reads")
    return to


def unscanned(model: TransformerConfig) -> TransformerConfig:
    """Returns a model that computes the same, with unrolled layers and in float32."""
    return dataclasses.replace(model, scan_layers=False, dtype="float32", attention="plain")


def _described(
    config: RunConfig, model: TransformerConfig, vocabularies: Vocabularies, directory: WorkDir
) -> tuple[Family, str, TransformerConfig, dict[str, Any]]:
    """Returns the family, the class of transformers, the model to write and the config.json of a run's model.

    Of a model that was imported, config.json is that of its source, with what training changed.
    """
    kept = directory.hugging_face / CONFIG
    if not kept.is_file():
        family, name, model = fitting_family(config.task, model)
        theirs = write_model(family, name, dataclasses.asdict(model), model.max_length) | {"torch_dtype": "float32"}
        return family, name, model, theirs | _special_ids(vocabularies, config) | _labels(vocabularies)
    base = read_json(kept, "the config.json of the model that this run began with")
    base |= _changed_start_id(config, vocabularies, directory)
    spec = read_model(base, str(kept))
    if (
        spec.architecture.task == config.task
        and not model_differences(spec, model)
        and not _labels_changed(base, vocabularies)
    ):
        name = spec.architecture.written_as or spec.architecture_name
        return spec.family, name, model, base if name == spec.architecture_name else base | {"architectures": [name]}
    family = FAMILIES[spec.family.model_type]
    names = [name for name, each in family.architectures.items() if each.task == config.task]
    if not names:
        raise UserError(
            f"{family.model_type} has no class for task={config.task} that jaxdp knows; known are {', '.join(family.architectures)}."
        )
    context = model.max_length if model.positions == "learned" else max(model.max_length, spec.max_length)
    theirs = base | write_model(family, names[0], dataclasses.asdict(model), context) | _labels(vocabularies)
    if differences := model_differences(read_model(theirs, str(kept)), model):
        raise UserError(f"{family.model_type} cannot express this model: it differs in {', '.join(differences[:4])}.")
    return family, names[0], model, theirs


def _labels(vocabularies: Vocabularies) -> dict[str, Any]:
    """Returns the keys of config.json with the labels of a classifier."""
    labels = vocabularies.labels
    if labels is None:
        return {}
    kinds = {"single_label": "single_label_classification", "multi_label": "multi_label_classification"}
    names = labels.names or ("LABEL_0",)
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": kinds.get(labels.kind, "regression"),
    }


def _labels_changed(base: Mapping[str, Any], vocabularies: Vocabularies) -> bool:
    labels = vocabularies.labels
    return labels is not None and (labels.names or ()) != (read_labels(base, CONFIG).names or ())


def _special_ids(vocabularies: Vocabularies, config: RunConfig) -> dict[str, Any]:
    """Returns the special ids of a tokenizer of jaxdp, which has an end of text and no token for padding."""
    tokenizer = vocabularies.tokenizer
    if tokenizer is None:
        return {}
    ids: dict[str, Any] = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    if config.task == "seq2seq":
        ids[START_ID] = _start_id(config, vocabularies)
    return ids


def _start_id(config: RunConfig, vocabularies: Vocabularies) -> int | None:
    """Returns the id of the first decoder input of a sequence-to-sequence run; None: it is unset, and there is no tokenizer."""
    tokenizer, start_id = vocabularies.tokenizer, config.task_options.get("start_id")
    return tokenizer.eos_id if start_id is None and tokenizer is not None else start_id


def _changed_start_id(config: RunConfig, vocabularies: Vocabularies, directory: WorkDir) -> dict[str, Any]:
    """Returns the key of config.json with the first decoder input, if the run has another than its source."""
    if config.task != "seq2seq":
        return {}
    start_id = _start_id(config, vocabularies)
    source = HuggingFaceFolder(SafetensorsSource(directory.hugging_face, ()))
    return {} if start_id is None or start_id == source.start_id else {START_ID: start_id}


def _recorded_dtypes(directory: WorkDir) -> Mapping[str, str]:
    """Returns name -> dtype of the tensors of an import."""
    path = directory.hugging_face / RECORD
    return read_json(path, "the record of an import")["dtypes"] if path.is_file() else {}


def _write_files(folder: Path, directory: WorkDir, theirs: Mapping[str, Any]) -> None:
    """Writes everything but the tensors: the files of the import if there are any, else the tokenizer."""
    if directory.hugging_face.is_dir():
        shutil.copytree(directory.hugging_face, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD))
    elif directory.tokenizer.is_file():
        shutil.copyfile(directory.tokenizer, folder / TOKENIZER)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**9}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    path, generation = folder / CONFIG, folder / GENERATION
    before = read_json(path, "a config.json") if path.is_file() else {}
    if before != theirs:
        path.write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")
    settings = read_json(generation, "a generation_config.json") if generation.is_file() else {}
    if not settings and "eos_token_id" in theirs:
        settings = {key: value for key, value in theirs.items() if key.endswith("_token_id")}
    elif START_ID in settings and theirs.get(START_ID) != before.get(START_ID):
        settings = {**settings, START_ID: theirs[START_ID]}
    else:
        return
    generation.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_tensors(folder: Path, specs: Mapping[str, ArraySpec], make: Callable[[str], np.ndarray]) -> None:
    """Writes the tensors to one file, or above `SHARD_BYTES` to several with an index."""
    shards: list[dict[str, ArraySpec]] = [{}]
    for name, spec in specs.items():
        if shards[-1] and sum(each.num_bytes for each in shards[-1].values()) + spec.num_bytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = spec
    if len(shards) == 1:
        write_arrays(folder / SINGLE, specs, make, METADATA)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_arrays(folder / file, shard, make, METADATA)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(spec.num_bytes for spec in specs.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _check_values(parameters: ParameterSource, written: HuggingFaceFolder) -> None:
    """Raises UserError unless an import of the written folder has the values of the checkpoint, rounded to the dtype."""
    for path in parameters.arrays:
        expected, dtype = parameters.read(path), written.parameters.dtype_of(path)
        if not np.array_equal(expected.astype(dtype).astype(np.float32), written.parameters.read(path), equal_nan=True):
            raise UserError(f"{path} was not written as it is; this is an internal error, please report it.")
