"""A task and a model as pure functions of the parameters: the loss, and the outputs of an evaluation."""

import functools
from collections.abc import Callable

import jax

from jaxdp.model import Transformer
from jaxdp.tasks import Task
from jaxdp.tasks.task import LossSums
from jaxdp.typing import PyTree


def apply_model(model: Transformer, params: PyTree, tokens: jax.Array, **options):
    """Applies the model as a plain function of its parameters; sharded ones are gathered where they are used."""
    if model.gather is not None:
        params = model.gather(params, "")
    return model.apply({"params": params}, tokens, **options)


def task_loss(task: Task, model: Transformer, *, train: bool) -> Callable[[PyTree, PyTree, jax.Array | None], LossSums]:
    """Returns the task's loss as a function (params, batch, row_keys) -> sums; dropout only in training."""
    apply = functools.partial(apply_model, model)
    dropout = train and model.config.dropout_rate > 0

    def loss(params, rows, row_keys):
        return task.loss(apply, params, rows, row_keys if dropout else None, train)

    return loss


def eval_outputs_of(task: Task, model: Transformer) -> Callable[[PyTree, PyTree], dict[str, jax.Array]]:
    """Returns the outputs that `task.summarize` needs, as a function (params, batch) -> arrays by name."""
    apply = functools.partial(apply_model, model)

    def outputs(params, rows):
        if not task.eval_outputs:
            return {}
        found = task.outputs(apply, params, rows)
        return {name: found[name] for name in task.eval_outputs}

    return outputs
