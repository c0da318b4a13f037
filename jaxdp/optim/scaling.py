"""Learning rates of single parameters: by rules on their paths, by layer, down to frozen.

A rule is a regular expression and a factor. It must match the whole path of a
parameter as it stands in an unrolled model, `layer_3/attention/query/kernel`; of
several that match the first counts. In a scanned stack every layer gets the factor
of its own path, so both kinds of model learn alike. A factor of 0 freezes.
"""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdp.errors import UserError
from jaxdp.trees import SCANNED_LAYERS, is_scanned, leaf_name, named_leaves
from jaxdp.typing import PyTree

Rules = Sequence[tuple[str, float]]
"""(pattern, factor) pairs, the first match counting."""

_LAYER = re.compile(r"(.*?)layer_(\d+)/.*")


def scaling_rules(freeze: Sequence[str], scales: Rules) -> Rules:
    """The rules of `optim.freeze` and `optim.scales`: what is frozen comes first.

    Raises:
        UserError: a pattern that is none, or a factor below 0.
    """
    rules = [*((pattern, 0.0) for pattern in freeze), *scales]
    for key, rule in zip(["freeze"] * len(freeze) + ["scales"] * len(scales), rules, strict=True):
        if not (isinstance(rule, Sequence) and len(rule) == 2 and isinstance(rule[0], str)):
            raise UserError(f"optim.{key} has {rule!r}; expected pairs such as ('token_embedding', 0.1).")
        pattern, factor = rule
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"optim.{key} has {pattern!r}, which is no regular expression: {error}.") from error
        if not (isinstance(factor, int | float) and 0 <= factor < float("inf")):
            raise UserError(f"optim.{key} has the factor {factor!r} for {pattern!r}; expected 0 or above.")
    return tuple((pattern, float(factor)) for pattern, factor in rules)


def layer_scales(params: PyTree, layer_decay: float) -> dict[str, float]:
    """Factors that fall from the top of the model to its embeddings.

    The last layer of a stack, and what is above, has 1 * decay and 1; each layer
    below has `decay` times the factor of the one above it, and embeddings one more.

    Source: Howard and Ruder 2018, ULMFiT, section 3.2; in this form Clark et al. 2020,
    ELECTRA, appendix B. Departs: encoder and decoder count their layers each from
    its own top.

    Args:
        params: or their shapes.
        layer_decay: above 0, at most 1; 1: all alike.

    Returns:
        The factor of every parameter by its path in the unrolled model.
    """
    names = [name for unrolled in _unrolled_names(params).values() for name in unrolled]
    found = {name: _LAYER.fullmatch(name) for name in names}
    depths: dict[str, int] = {}
    for match in filter(None, found.values()):
        depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    scales = {}
    for name, match in found.items():
        power = 0
        if match:
            power = depths[match[1]] - int(match[2])
        elif "embedding" in name:
            power = max(depths.values(), default=0) + 1
        scales[name] = layer_decay**power
    return scales


def update_scales(params: PyTree, rules: Rules, layer_decay: float) -> PyTree:
    """What the learning rate of every parameter is multiplied by.

    Args:
        params: or their shapes.
        rules: from `scaling_rules`; a parameter that none matches has the factor 1.
        layer_decay: see `layer_scales`; multiplies the rule's factor.

    Returns:
        A tree of float32 arrays: `[]`, and in scanned stacks `[num_layers, 1, ...]`,
        which broadcasts to the parameter.

    Raises:
        UserError: a rule that matches nothing, or nothing is left to learn.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"optim.layer_decay is {layer_decay}; expected above 0 and at most 1, 1 being off.")
    unrolled = _unrolled_names(params)
    by_name = layer_scales(params, layer_decay)
    for name in by_name:
        matching = (factor for pattern, factor in rules if re.fullmatch(pattern, name))
        by_name[name] *= next(matching, 1.0)
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, name) for name in by_name):
            shown = ", ".join(sorted(by_name)[:3])
            raise UserError(
                f"optim.freeze or optim.scales has {pattern!r}, which matches no parameter: expected a "
                f"regular expression of whole paths, such as {shown}; jaxdp inspect lists them all."
            )
    if not any(by_name.values()):
        raise UserError("optim.freeze and optim.scales freeze every parameter: leave one to be learned.")

    def scale(path, leaf) -> np.ndarray:
        name = leaf_name(path)
        factors = np.array([by_name[each] for each in unrolled[name]], np.float32)
        return factors.reshape(-1, *[1] * (len(leaf.shape) - 1)) if is_scanned(name) else factors[0]

    return jax.tree.map_with_path(scale, params)


def scale_by_rules(rules: Rules, layer_decay: float) -> optax.GradientTransformation:
    """Multiplies finished updates, weight decay and all; the last of an optimizer's chain."""

    def scaled(updates: PyTree, _params) -> PyTree:
        # Where, so that an update which is not finite cannot get through a factor of 0.
        return jax.tree.map(
            lambda update, scale: jnp.where(scale > 0, update * scale, 0.0),
            updates,
            update_scales(updates, rules, layer_decay),
        )

    return optax.stateless(scaled)


def holding_frozen(loss: Callable, rules: Rules) -> Callable:
    """A loss whose gradient for frozen parameters is 0, and is not computed where it is not needed.

    The norm that gradients are clipped by is then that of what is learned.

    Args:
        loss: (params, ...) -> anything.
        rules: from `scaling_rules`.
    """
    if all(factor > 0 for _, factor in rules):
        return loss

    def hold(leaf: jax.Array, scale: np.ndarray) -> jax.Array:
        if (scale > 0).all():
            return leaf
        held = jax.lax.stop_gradient(leaf)
        return jnp.where(scale > 0, leaf, held) if (scale > 0).any() else held

    def with_held(params: PyTree, *arguments):
        return loss(jax.tree.map(hold, params, update_scales(params, rules, 1.0)), *arguments)

    return with_held


def _unrolled_names(params: PyTree) -> dict[str, list[str]]:
    """Each parameter's path -> its paths in the unrolled model, one a layer of a scanned stack."""
    names = {}
    for name, leaf in named_leaves(params):
        names[name] = [name]
        if is_scanned(name):
            parts = name.split("/")
            place = parts.index(SCANNED_LAYERS)
            names[name] = [
                "/".join([*parts[:place], f"layer_{number}", *parts[place + 1 :]])
                for number in range(leaf.shape[0])
            ]
    return names
