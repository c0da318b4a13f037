"""A task and a model as pure functions of the parameters: the loss, and the outputs of an evaluation."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp.arguments import shown
from jaxdp.errors import UserError
from jaxdp.model import Transformer
from jaxdp.quoting import quoted_names
from jaxdp.signatures import defined_in
from jaxdp.tasks import Task
from jaxdp.tasks.task import LossSums
from jaxdp.typing import PyTree


def apply_model(model: Transformer, params: PyTree, tokens: jax.Array, **options) -> Any:
    """Applies the model as a plain function of its parameters; sharded ones are gathered where they are used.

    Returns:
        What the method of the model returns: the logits, unless `options` name another.
    """
    if model.gather is not None:
        # XLA would move gathers that depend on the parameters alone out of the loops over microbatches and new tokens,
        # and then hold all layers at once.
        params, tokens = jax.lax.optimization_barrier((params, tokens))
        params = model.gather(params, "")
    return model.apply({"params": params}, tokens, **options)


def task_loss(task: Task, model: Transformer, *, train: bool) -> Callable[[PyTree, PyTree, jax.Array | None], LossSums]:
    """Returns the task's loss as a function (params, batch, row_keys) -> sums; dropout only in training."""
    apply = functools.partial(apply_model, model)
    dropout = train and model.config.has_dropout

    def loss(params, rows, row_keys):
        sums = task.loss(apply, params, rows, row_keys if dropout else None, train)
        check_sums(f"loss of the task{defined_in(task.loss)}", sums)
        return sums

    return loss


def check_sums(what: str, sums: object) -> None:
    """Checks what a task's loss returns, while it is traced.

    Args:
        what: The function, for the message.
        sums: Its result.

    Raises:
        UserError: It is no `LossSums` of scalars, or a metric is no pair of scalars.
    """
    if not isinstance(sums, LossSums):
        raise UserError(f"{what} must return jaxdp.tasks.LossSums(loss, weight, metrics), found {shown(sums)}.")
    for name, value in (("loss", sums.loss), ("weight", sums.weight)):
        if jnp.shape(value):
            raise UserError(
                f"{what}: LossSums.{name} must be one number, the sum over the batch, found the shape {list(value.shape)}."
            )
    for name, pair in sums.metrics.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or any(map(jnp.shape, pair)):
            raise UserError(
                f"{what}: the metric {name!r} must be a pair of numbers, (sum over the batch, weight), found {shown(pair)}."
            )


def eval_outputs_of(task: Task, model: Transformer) -> Callable[[PyTree, PyTree], dict[str, jax.Array]]:
    """Returns the outputs that `task.summarize` needs, as a function (params, batch) -> arrays by name."""
    apply = functools.partial(apply_model, model)

    def outputs(params, rows):
        if not task.eval_outputs:
            return {}
        found = task.outputs(apply, params, rows)
        for name in task.eval_outputs:
            if not isinstance(found, Mapping) or name not in found:
                has = quoted_names(list(found)) if isinstance(found, Mapping) else shown(found)
                raise UserError(
                    f"outputs of the task{defined_in(task.outputs)} must return a dict with {name!r}, which eval_outputs "
                    f"names, found {has or 'an empty dict'}."
                )
        return {name: found[name] for name in task.eval_outputs}

    return outputs
