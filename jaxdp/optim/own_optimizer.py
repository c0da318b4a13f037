"""Checks of a user's optimizer: what it is, and the trees that its update returns."""

import jax
import optax

from jaxdp.arguments import shown
from jaxdp.errors import UserError
from jaxdp.signatures import check_signature


def checked_direction(name: str, direction: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Returns a registered optimizer whose updates are checked while the step is traced.

    Args:
        name: Value of `optim.name`.
        direction: What the registered function returned.

    Raises:
        UserError: It is no Optax transformation. While tracing: `update` does not return a pair of the updates, with
            the structure and shapes of the gradients, and a state like the one that it received.
    """
    what = f"optim.name={name}"
    if not (callable(getattr(direction, "init", None)) and callable(getattr(direction, "update", None))):
        raise UserError(
            f"{what}: its function must return an Optax transformation such as optax.scale_by_adam(), "
            f"found {shown(direction)}."
        )
    check_signature(f"{what}, init", direction.init, ["params"])
    check_signature(f"{what}, update", direction.update, ["updates", "state", "params"])
    whole = optax.with_extra_args_support(direction)

    def update(updates, state, params=None, **extra):
        found = whole.update(updates, state, params, **extra)
        if not isinstance(found, tuple) or len(found) != 2:
            raise UserError(f"{what}: its update must return (updates, state), found {shown(found)}.")
        _check_like(f"{what}: the updates that it returns", found[0], updates, "the gradients")
        _check_like(f"{what}: the state that its update returns", found[1], state, "the state that it received")
        return found

    return optax.GradientTransformationExtraArgs(whole.init, update)


def _check_like(what: str, found, expected, whose: str) -> None:
    """Raises UserError unless two trees have equal structures and shapes."""
    structures = jax.tree.structure(found), jax.tree.structure(expected)
    if structures[0] != structures[1]:
        raise UserError(f"{what} must have the tree structure of {whose}; keep it, e.g. with jax.tree.map.")
    for (path, leaf), like in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        if jax.numpy.shape(leaf) != jax.numpy.shape(like):
            raise UserError(
                f"{what} must have the shapes of {whose}: {jax.tree_util.keystr(path)} is "
                f"{list(jax.numpy.shape(leaf))}, expected {list(jax.numpy.shape(like))}."
            )
