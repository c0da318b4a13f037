"""Setup of a train step without data: the vocabulary, the labels and the length of the run are taken or assumed."""

import re
from collections.abc import Iterable

from jaxdp.data.labels import Labels
from jaxdp.data.tokenizers.characters import ByteTokenizer
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.model import Transformer
from jaxdp.parallel.devices import Topology, divide_batch
from jaxdp.run_config import RunConfig
from jaxdp.tasks import Task
from jaxdp.tasks.architecture import architecture
from jaxdp.tasks.make import make_task
from jaxdp.training.step_setup import StepSetup

PRESET_VOCABULARIES = {
    "gpt2": 50257, "gpt2_medium": 50257, "gpt2_large": 50257, "gpt2_xl": 50257, "llama3_1b": 128256,
    "bert_tiny": 30522, "bert_mini": 30522, "bert_small": 30522, "bert_medium": 30522, "bert_base": 30522,
    "bert_large": 30522, "t5_small": 32128, "t5_base": 32128,
}  # fmt: skip
"""Vocabulary sizes of the published models that presets are named after."""

DEFAULT_VOCABULARY = 256
NUM_LABELS = 2
NUM_STEPS = 1000


def data_free_setup(
    config: RunConfig, topology: Topology, microbatch_size: int | None = None
) -> tuple[StepSetup, list[str]]:
    """Returns the setup of a configuration on given devices, and a sentence for each assumption about its data.

    Args:
        config: Configuration; its data is not read.
        topology: Devices, which may be compile-only.
        microbatch_size: Microbatch size to use instead of that of the configuration.

    Raises:
        UserError: A value of the configuration does not fit, or the devices do not divide the batch.
    """
    task, of_labels = _task(config)
    vocab_size, assumed = assumed_vocabulary(config, task.special_tokens)
    steps, of_steps = _steps(config)
    model = architecture(config, task, vocab_size, topology.platform)
    shape = divide_batch(
        config.global_batch_size, microbatch_size or config.fixed_microbatch_size, topology.num_devices
    )
    setup = StepSetup(config, task, Transformer(model), shape, steps, topology)
    return setup, [*assumed, *of_labels, *of_steps]


def assumed_vocabulary(config: RunConfig, special_tokens: Iterable[str] = ()) -> tuple[int, list[str]]:
    """Returns the vocabulary size of a configuration whose data is not read, and the assumption, if it is one.

    Args:
        config: Configuration.
        special_tokens: Names of special tokens that the task needs.
    """
    size, tokenizer, preset = config.model.vocab_size, config.data.tokenizer, config.model.preset
    if size is not None:
        return size, []
    is_text = config.data.source != "tokens" or bool(config.data.mixture)
    if is_text and (found := re.fullmatch(r"\w+:(\d+)", tokenizer)):
        return int(found[1]), [f"vocabulary of {int(found[1]):,} (data.tokenizer={tokenizer})"]
    if is_text and tokenizer == "byte":
        return ByteTokenizer(tuple(special_tokens)).vocab_size, []
    if preset in PRESET_VOCABULARIES:
        size = PRESET_VOCABULARIES[preset]
        return size, [f"vocabulary of {size:,}, that of the published model (model.preset={preset})"]
    return DEFAULT_VOCABULARY, [f"vocabulary of {DEFAULT_VOCABULARY}; model.vocab_size=N sets another"]


def _task(config: RunConfig) -> tuple[Task, list[str]]:
    """Returns the task with stand-ins for the vocabularies that it needs to compile, and the assumption about them."""
    task = make_task(config)
    if task.generated_field:
        # Its tokenizer names the id that begins and ends a target; any id gives the same program.
        return make_task(config, Vocabularies(tokenizer=ByteTokenizer(task.special_tokens))), []
    if not task.uses_labels:
        return task, []
    options = config.task_options
    kind, weights = options.get("kind", "single_label"), options.get("class_weights", "none")
    if kind == "regression":
        return make_task(config, Vocabularies(labels=Labels(kind=kind, num_records=1))), []
    count = len(weights.split(",")) if "," in weights else NUM_LABELS
    labels = Labels(kind=kind, num_records=count, names=tuple(map(str, range(count))), counts=(1,) * count)
    return make_task(config, Vocabularies(labels=labels)), [f"{count} labels"]


def _steps(config: RunConfig) -> tuple[int, list[str]]:
    if config.total_epochs is None:
        return config.num_steps(None), []
    return NUM_STEPS, [f"{NUM_STEPS:,} steps, since an epoch is not counted without data"]
