"""Hugging Face folder: configuration, tensors, tokenizer and the other files that travel with a model."""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdp.data.labels import Labels
from jaxdp.data.tokenizers import Tokenizer, load_tokenizer
from jaxdp.data.tokenizers.conversion import convert_vocabulary
from jaxdp.data.tokenizers.files import parse_tokenizer
from jaxdp.errors import UserError
from jaxdp.interop.families.family import Architecture
from jaxdp.interop.hf_config import ModelSpec, model_keys, read_model, transformer_config
from jaxdp.interop.mapping import MappedSource, with_spare
from jaxdp.interop.safetensors_source import CONFIG, INDEX
from jaxdp.interop.source import ParameterSource
from jaxdp.json_files import read_json
from jaxdp.model import TransformerConfig, parameter_shapes
from jaxdp.trees import named_leaves

TOKENIZER = "tokenizer.json"
GENERATION = "generation_config.json"
MODULES = "modules.json"
SENTENCE_CONFIGS = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "xlm-roberta"))
"""Names of the settings of a Transformer module of sentence-transformers."""
MAX_SEQ_LENGTH = "max_seq_length"
"""Key of these settings with the number of tokens of a text that are read, special ones included."""
START_ID = "decoder_start_token_id"
"""Key of config.json and generation_config.json with the id of the first decoder input."""

POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
}
"""Settings of the pooling module of sentence-transformers, and their values of `embedding.pooling`."""

MAX_ROTARY_LENGTH = 2048
"""Longest `data.length` of rotary positions that an import chooses, in tokens. Evaluation holds the attention scores of
`global_batch_size` sequences at once where attention is plain: with 32 sequences and 16 heads 8.6 GB, and four times as
much with twice the length."""

MAX_BYTES = 2**28
"""Largest file that is kept next to the weights."""

_KEPT = (".json", ".txt", ".model", ".spm", ".jinja")
"""Suffixes of the files that are kept: configuration, tokenizer, chat template."""


class HuggingFaceFolder:
    """Model in a Hugging Face folder.

    Attributes:
        path: The folder.
        config: Content of config.json.
        tensors: Its tensors.
    """

    def __init__(self, source: ParameterSource):
        """Reads config.json.

        Raises:
            UserError: The folder has none.
        """
        self.path, self.tensors = source.path, source
        self.config: Mapping[str, Any] = source.config or read_json(
            self.path / CONFIG, "the config.json of a Hugging Face model; copy it next to the weights"
        )

    @functools.cached_property
    def spec(self) -> ModelSpec:
        """Model in terms of jaxdp; raises as `read_model`."""
        return read_model(self.config, str(self.path / CONFIG))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Tokenizer of the folder, also of older vocabulary files; None: it has none. Raises as `convert_vocabulary`."""
        return tokenizer_of(self.tensors)

    @functools.cached_property
    def labels(self) -> Labels | None:
        """Labels of a classifier, from `id2label`; None for other models."""
        if self.spec.architecture.task != "classification":
            return None
        return read_labels(self.config, str(self.path / CONFIG))

    @property
    def model_config(self) -> TransformerConfig:
        """Model that the folder holds."""
        return transformer_config(self.spec, 0 if self.labels is None else len(self.labels.names) or 1)

    @functools.cached_property
    def parameters(self) -> MappedSource:
        """Parameters of the model; raises as `MappedSource`."""
        return self._mapped(self.spec.architecture, self._shapes)

    @functools.cached_property
    def initial_parameters(self) -> MappedSource:
        """Parameters that a run may start from: those of the model, and those of other heads, e.g. a pooler, that the folder has."""
        return self._mapped(*with_spare(self.tensors, self.spec.family, self.spec.architecture, self._shapes))

    def _mapped(self, architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> MappedSource:
        is_tied = self.model_config.tie_embeddings
        return MappedSource(self.tensors, self.spec.family, architecture, shapes, is_tied=is_tied)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(leaf.shape) for name, leaf in named_leaves(parameter_shapes(self.model_config))}

    @property
    def task_options(self) -> dict[str, Any]:
        """Keys of the group of the model's task that the folder determines; raises as `labels` and `_pooling`."""
        options, task = dict(self.spec.architecture.options), self.spec.architecture.task
        if self.labels is not None:
            options["kind"] = self.labels.kind
        if task == "embedding":
            options |= self._pooling()
        if task == "seq2seq":
            options["start_id"] = self.start_id
        return options

    def run_values(self, length: int | None = None) -> dict[str, Any]:
        """Returns the configuration of a run of this model, as the keys that differ from the defaults.

        Args:
            length: `data.length`; None: see `run_length`.

        Raises:
            UserError: The model cannot have this length; see also `task_options`.
        """
        spec, options = self.spec, self.task_options
        task, length = spec.architecture.task, run_length(spec, length, self.max_seq_length)
        if self.max_seq_length is not None and self.max_seq_length < length:
            options["max_length"] = self.max_seq_length
        has_columns = task in ("classification", "seq2seq")
        return {
            "task": task,
            "total_steps": 1,
            "data": {
                "source": "tokens" if self.tokenizer is None else "csv" if has_columns else "text",
                "tokenizer": TOKENIZER,
                "length": length,
                "long_documents": "cut",
            },
            "model": model_keys(spec),
            **({task: options} if options else {}),
        }

    @functools.cached_property
    def _modules(self) -> dict[str, str]:
        """Kind of each module of sentence-transformers -> its path; empty: the folder does not list them."""
        path = self.path / MODULES
        listed = read_json(path, "the modules.json of a sentence encoder", list) if path.is_file() else []
        return {each["type"].rpartition(".")[2]: each["path"] for each in listed}

    @functools.cached_property
    def max_seq_length(self) -> int | None:
        """Number of tokens of a text that a sentence encoder reads; None: its settings do not say it.

        Raises:
            UserError: It is not a whole number of at least 1.
        """
        if self.spec.architecture.task != "embedding" or "Transformer" not in self._modules:
            return None
        for name in SENTENCE_CONFIGS:
            path = self.path / self._modules["Transformer"] / name
            if path.is_file():
                found = read_json(path, "the settings of a sentence encoder").get(MAX_SEQ_LENGTH)
                if found is not None and (type(found) is not int or found < 1):
                    raise UserError(f"{path}: {MAX_SEQ_LENGTH} must be a whole number of at least 1, found {found!r}.")
                return found
        return None

    def _pooling(self) -> dict[str, Any]:
        """Returns the keys of `embedding` that the modules of a sentence encoder mean; none of another model.

        Raises:
            UserError: It reduces the hidden states in a way that jaxdp does not.
        """
        path, modules = self.path / MODULES, self._modules
        if not modules:
            return {}
        unknown = modules.keys() - {"Transformer", "Pooling", "Normalize"}
        if unknown:
            raise UserError(f"{path} has the module {', '.join(sorted(unknown))}, which jaxdp does not support.")
        options: dict[str, Any] = {"normalize": "Normalize" in modules}
        if "Pooling" in modules:
            settings = read_json(self.path / modules["Pooling"] / CONFIG, "the settings of a pooling module")
            modes = [key for key, value in settings.items() if key.startswith("pooling_mode") and value is True]
            if len(modes) != 1 or modes[0] not in POOLING_MODES:
                raise UserError(
                    f"{path}: the pooling {' and '.join(modes) or 'none'} is not supported; supported is one of "
                    f"{', '.join(POOLING_MODES)}."
                )
            options["pooling"] = POOLING_MODES[modes[0]]
        return options

    @property
    def start_id(self) -> int | None:
        """Id of the first decoder input, from config.json or generation_config.json; None: neither has it, or no decoder of a target."""
        if self.spec.architecture.task != "seq2seq":
            return None
        generation = self.path / GENERATION
        for values in (self.config, read_json(generation, "a generation_config.json") if generation.is_file() else {}):
            if values.get(START_ID) is not None:
                return values[START_ID]
        return self.config.get("pad_token_id")

    def copy_files(self, to: Path) -> list[Path]:
        """Copies all files but the weights, and returns the copies."""
        copies = []
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path)
            first, depth = name.parts[0], len(name.parts)
            if depth > 2 or path.suffix not in _KEPT or name.name == INDEX or not path.is_file():
                continue
            if first.startswith(".") or path.stat().st_size > MAX_BYTES:
                continue
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            copies.append(Path(shutil.copyfile(path, to / name)))
        return copies


def run_length(spec: ModelSpec, length: int | None, max_seq_length: int | None = None) -> int:
    """Returns `data.length` of an import.

    Args:
        spec: The model.
        length: Chosen length; None: the model's context, of rotary positions at most `MAX_ROTARY_LENGTH`.
        max_seq_length: Number of tokens that a sentence encoder reads, which that limit does not cut; None: it has none.

    Raises:
        UserError: The model cannot have the chosen length.
    """
    context, positions = spec.max_length, spec.model["positions"]
    if length is None:
        limit = max(MAX_ROTARY_LENGTH, max_seq_length or 0)
        return min(context, limit) if positions == "rotary" else context
    if not 1 <= length <= context:
        raise UserError(f"--length={length} must be from 1 to {context}, the context of the model.")
    if positions == "learned" and length != context:
        raise UserError(
            f"--length={length} would cut the table of {context} learned positions; leave out --length. A training with "
            "init_from takes the first data.length of them."
        )
    return length


def tokenizer_of(source: ParameterSource) -> Tokenizer | None:
    """Returns the tokenizer of a source: its tokenizer.json, or that of older vocabulary files; None: it has none.

    Raises:
        UserError: It is not a tokenizer; see also `convert_vocabulary`.
    """
    if source.tokenizer is not None:
        return load_tokenizer(source.tokenizer)
    converted = convert_vocabulary(source.path, (source.config or {}).get("model_type", ""))
    return None if converted is None else parse_tokenizer(converted.content, converted.path)


def read_labels(config: Mapping[str, Any], where: str) -> Labels:
    """Returns the labels of a classifier from its config.json.

    Raises:
        UserError: They are not numbered from 0, or not distinct.
    """
    given = config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(config.get("num_labels", 2))}
    names = tuple(str(given.get(str(number))) for number in range(len(given)))
    if "None" in names and None in (given.get(str(number)) for number in range(len(given))):
        raise UserError(f"{where}: the keys of id2label are {', '.join(given)}; expected numbers from 0 on.")
    kinds = {"single_label_classification": "single_label", "multi_label_classification": "multi_label"}
    problem = config.get("problem_type") or ("regression" if len(names) == 1 else "single_label_classification")
    if problem == "regression":
        return Labels(kind="regression", num_records=0)
    if problem not in kinds or len(set(names)) < len(names) or len(names) < 2:
        raise UserError(
            f"{where}: problem_type={problem!r} with the labels {', '.join(names)} is not supported; expected 2 or more "
            f"distinct names, and one of {', '.join(kinds)} or regression."
        )
    return Labels(kind=kinds[problem], num_records=0, names=names, counts=(0,) * len(names))  # type: ignore[arg-type]
