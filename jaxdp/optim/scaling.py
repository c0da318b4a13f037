"""Per-parameter learning rates: rules by path, layer-wise decay and frozen parameters.

A rule is a regular expression and a factor. The expression must match the whole path of
a parameter in the unrolled model, e.g. `layer_3/attention/query/kernel`; the first
matching rule applies. In scanned layers every layer receives the factor of its own path,
so scanned and unrolled models train equally. A factor of 0 freezes the parameter.
"""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdp.errors import UserError
from jaxdp.trees import is_scanned, leaf_name, unrolled_names
from jaxdp.typing import PyTree

Rules = Sequence[tuple[str, float]]
"""Pairs (pattern, factor); the first matching pattern applies."""

_LAYER = re.compile(r"(.*?)layer_(\d+)/.*")


def scaling_rules(freeze: Sequence[str], scales: Rules) -> Rules:
    """Builds the rules of `optim.freeze` and `optim.scales`, with frozen parameters first.

    Raises:
        UserError: A pattern is not a regular expression, or a factor is below 0.
    """
    rules = [*((pattern, 0.0) for pattern in freeze), *scales]
    for key, rule in zip(["freeze"] * len(freeze) + ["scales"] * len(scales), rules, strict=True):
        if not (isinstance(rule, Sequence) and len(rule) == 2 and isinstance(rule[0], str)):
            raise UserError(f"optim.{key} has {rule!r}; expected pairs such as ('token_embedding', 0.1).")
        pattern, factor = rule
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"optim.{key} has {pattern!r}, which is not a regular expression: {error}.") from error
        if not (isinstance(factor, int | float) and 0 <= factor < float("inf")):
            raise UserError(f"optim.{key} has the factor {factor!r} for {pattern!r}; expected 0 or above.")
    return tuple((pattern, float(factor)) for pattern, factor in rules)


def layer_scales(params: PyTree, layer_decay: float) -> dict[str, float]:
    """Computes learning rate factors that decrease from the top of the model to the embeddings.

    Parameters above the layers have factor 1, the last layer has `layer_decay`, and each
    layer has `layer_decay` times the factor of the layer above. Embeddings count as one
    more layer below the first.

    Source: Howard and Ruder 2018, ULMFiT, section 3.2; in this form Clark et al. 2020,
    ELECTRA, appendix B. Differs: encoder and decoder each count from their own last layer.

    Args:
        params: Parameters, or their shapes.
        layer_decay: Factor from one layer to the next lower one, above 0 and at most 1; 1: off.

    Returns:
        Factor of every parameter by its path in the unrolled model.
    """
    names = [name for unrolled in unrolled_names(params).values() for name in unrolled]
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
    """Computes the learning rate factor of every parameter.

    Args:
        params: Parameters, or their shapes.
        rules: Result of `scaling_rules`; a parameter without a matching rule has factor 1.
        layer_decay: Decay of `layer_scales`, multiplied by the factor of the rule.

    Returns:
        Tree of float32 arrays that broadcast to the parameters: `[]`, or
        `[num_layers, 1, ...]` for scanned layers.

    Raises:
        UserError: A rule matches no parameter, or all parameters are frozen.
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"optim.layer_decay is {layer_decay}; expected above 0 and at most 1 (off).")
    unrolled = unrolled_names(params)
    by_name = layer_scales(params, layer_decay)
    for name in by_name:
        matching = (factor for pattern, factor in rules if re.fullmatch(pattern, name))
        by_name[name] *= next(matching, 1.0)
    for pattern, _ in rules:
        if not any(re.fullmatch(pattern, name) for name in by_name):
            shown = ", ".join(sorted(by_name)[:3])
            raise UserError(
                f"optim.freeze or optim.scales has {pattern!r}, which matches no parameter; expected a "
                f"regular expression for whole paths such as {shown}; jaxdp inspect lists all paths."
            )
    if not any(by_name.values()):
        raise UserError("optim.freeze and optim.scales freeze every parameter; leave at least one to train.")

    def scale(path, leaf) -> np.ndarray:
        name = leaf_name(path)
        factors = np.array([by_name[each] for each in unrolled[name]], np.float32)
        return factors.reshape(-1, *[1] * (len(leaf.shape) - 1)) if is_scanned(name) else factors[0]

    return jax.tree.map_with_path(scale, params)


def scale_by_rules(rules: Rules, layer_decay: float) -> optax.GradientTransformation:
    """Builds a transformation that scales complete updates, including weight decay; the last one of a chain."""

    def scaled(updates: PyTree, _params) -> PyTree:
        # 0 times an update that is not finite would be NaN, so frozen parameters are set to 0.
        return jax.tree.map(
            lambda update, scale: jnp.where(scale > 0, update * scale, 0.0),
            updates,
            update_scales(updates, rules, layer_decay),
        )

    return optax.stateless(scaled)


def on_trained(direction: optax.GradientTransformation, rules: Rules) -> optax.GradientTransformation:
    """Applies a direction to the parameters that are trained, so that its state has no arrays of frozen ones.

    The paths of the other arrays are those without frozen parameters. Scanned layers with a trained layer count as trained.

    Args:
        direction: Optax transformation.
        rules: Result of `scaling_rules`.
    """
    if all(factor > 0 for _, factor in rules):
        return direction
    inner = optax.with_extra_args_support(direction)

    def trained(tree: PyTree, is_trained: PyTree) -> PyTree:
        return jax.tree.map(lambda kept, leaf: leaf if kept else optax.MaskedNode(), is_trained, tree)

    def choice(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda scale: bool((scale > 0).any()), update_scales(tree, rules, 1.0))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra):
        is_trained = choice(updates)
        own = None if params is None else trained(params, is_trained)
        changes, state = inner.update(trained(updates, is_trained), state, own, **extra)
        frozen = jax.tree.map(jnp.zeros_like, updates)
        return jax.tree.map(lambda kept, new, zero: new if kept else zero, is_trained, changes, frozen), state

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(trained(params, choice(params))), update)


def holding_frozen(loss: Callable, rules: Rules) -> Callable:
    """Stops the gradient of a loss at frozen parameters, so that it is not computed.

    The gradient norm used for clipping then covers the trained parameters only.

    Args:
        loss: Function (params, ...) -> any result.
        rules: Result of `scaling_rules`.
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
