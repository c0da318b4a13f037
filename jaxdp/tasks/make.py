"""Tasks made from a configuration: the task itself, what it needs of its data, and its training batches."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp.arguments import shown, unregistered
from jaxdp.data.augmentation import augmented, make_augmentation
from jaxdp.data.dataset import DatasetSpec, TaskData
from jaxdp.data.pipeline import MakeBatch, with_first_check
from jaxdp.data.vocabularies import NONE, Vocabularies
from jaxdp.errors import UserError
from jaxdp.run_config import RunConfig
from jaxdp.signatures import defined_in
from jaxdp.tasks import Task, TaskInputs, registered_tasks
from jaxdp.tasks.declaration import check_task
from jaxdp.tasks.framing import BERT_FRAME, encoder_frame


def make_task(config: RunConfig, vocabularies: Vocabularies = NONE) -> Task:
    """Returns the task that `config.task` names.

    Args:
        config: The task's own group, `data` and `optim` are used.
        vocabularies: Vocabularies of the run; without tokenizers while data is prepared, without labels before
            they are read.

    Raises:
        UserError: No task of that name is registered, or it declares something wrong.
    """
    factories = registered_tasks()
    if config.task not in factories:
        raise UserError(
            f"task={config.task!r} is unknown; choose one of: {', '.join(factories)}. {unregistered('task')}"
        )
    inputs = TaskInputs(
        length=config.data.length,
        target_length=config.data.target_length,
        tokenizer=vocabularies.tokenizer,
        target_tokenizer=vocabularies.target_tokenizer,
        packing=config.data.packing,
        label_smoothing=config.optim.label_smoothing,
        z_loss=config.optim.z_loss,
        labels=vocabularies.labels,
        options=dict(config.task_options),
    )
    task = _checked(config.task, inputs)
    if inputs.packing is None:
        task = _checked(config.task, dataclasses.replace(inputs, packing=task.packings[0]))
    return task


def _checked(name: str, inputs: TaskInputs) -> Task:
    """Makes a task and checks what it declares."""
    task = registered_tasks()[name](inputs)
    check_task(name, task, Task, has_labels=inputs.labels is not None)
    return task


def dataset_spec(config: RunConfig) -> DatasetSpec:
    """Returns the specification of the dataset that a configuration describes."""
    task, options = make_task(config), config.task_options
    needs = TaskData(
        name=config.task,
        kind=type(task),
        fields=task.fields,
        eos_fields=task.eos_fields,
        packings=task.packings,
        special_tokens=task.special_tokens,
        prompt_end=task.prompt_end,
        generated_field=task.generated_field,
        label_kind=options.get("kind", "single_label") if task.uses_labels else None,
        label_separator=options.get("label_separator", ","),
        bind=functools.partial(make_task, config),
    )
    return DatasetSpec(
        data=config.data,
        task=needs,
        seed=config.seed,
        vocab_size=config.model.vocab_size,
        global_batch_size=config.global_batch_size,
        num_eval_batches=config.eval.num_batches,
        num_scored=config.eval.num_scored,
        counts_epochs=config.total_epochs is not None,
    )


def make_training_batch(spec: DatasetSpec, task: Task, vocabularies: Vocabularies) -> MakeBatch:
    """Returns `task.make_batch` with `data.augmentation` before it; its first batch is checked.

    Raises:
        UserError: Augmentation does not suit the task or its sequences.
    """
    steps = spec.data.augmentation
    if not steps:
        return checked_make_batch(task)
    if not task.can_augment or spec.packing != "none":
        raise UserError(
            f"data.augmentation={steps} needs one text a row that is read and not also "
            f"what is learned, which task={spec.task.name} with data.packing={spec.packing} has not; leave it empty."
        )
    tokenizer = vocabularies.input_tokenizer
    special_ids = {*tokenizer.special_ids.values(), tokenizer.eos_id}
    names = encoder_frame(tokenizer.special_ids) or BERT_FRAME
    blank_id = tokenizer.special_ids.get(names.mask, tokenizer.eos_id)
    return augmented(checked_make_batch(task), make_augmentation(steps, special_ids, blank_id))


def checked_spec(task: Task, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns `task.batch_spec(rows)`.

    Raises:
        UserError: It is no dict of arrays whose first axis is the rows.
    """
    spec: Any = task.batch_spec(rows)
    what = f"batch_spec of the task{defined_in(task.batch_spec)}"
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(f"{what} must return a dict of jax.ShapeDtypeStruct by name, found {shown(spec)}.")
    for name, array in spec.items():
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise UserError(f"{what}: {name!r} must be a jax.ShapeDtypeStruct, found {shown(array)}.")
        if tuple(array.shape[:1]) != (rows,):
            raise UserError(f"{what}: the first axis of {name!r} must be the {rows} rows, found {list(array.shape)}.")
    return dict(spec)


def checked_make_batch(task: Task) -> MakeBatch:
    """Returns `task.make_batch`; its first batch is compared with `task.batch_spec`."""
    return with_first_check(task.make_batch, functools.partial(checked_spec, task))


def batch_spec(task: Task, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of the arrays that a device receives: those of the task, and `row_ids`."""
    return checked_spec(task, rows) | {"row_ids": jax.ShapeDtypeStruct((rows,), jnp.int32)}
