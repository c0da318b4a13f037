"""Optimizers as Optax chains, gradient clipping and EMA of the parameters.

Every chain applies the direction, then weight decay, then the learning rate:

    params -= scale * learning_rate(n) * (direction + weight_decay * params)

Weight decay is therefore decoupled from the scaling of the gradient (Loshchilov and
Hutter 2019) and multiplied by the learning rate, as in PyTorch's AdamW, for every
optimizer; `jaxdp.optim.weight_decay` has its variants. It applies to the parameters of `decay_mask`. `scale` is 1 except for
parameters with a rule in `jaxdp.optim.scaling`. Clipping is not part of the chain: the
train step already has the gradient norm and multiplies by `clip_factor`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim.config import OptimizerConfig
from jaxdp.optim.normuon import scale_by_output_rms
from jaxdp.optim.own_optimizer import checked_direction
from jaxdp.optim.registry import DIRECTIONS, add_built_in
from jaxdp.optim.rules import is_layer_matrix, per_layer
from jaxdp.optim.scaling import on_trained, scale_by_rules, scaling_rules
from jaxdp.optim.schedules import make_schedule
from jaxdp.optim.weight_decay import decayed_weights
from jaxdp.trees import leaf_name
from jaxdp.typing import PyTree

Adapt = Callable[[optax.GradientTransformation, Callable[[str, Any], bool] | None], optax.GradientTransformation]
"""adapt(direction, needs_whole) -> the direction for parameters as the devices hold them."""

# Jordan's coefficients once per iteration: given a single tuple, Optax unrolls the
# iterations, which takes twice the time and several times the memory on CPU.
MUON_COEFFICIENTS = ((3.4445, -4.7750, 2.0315),) * 5
MUON_UPDATE_RMS = 0.2  # root mean square of a typical AdamW update, to which Muon's update is rescaled


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds Adam's direction. Source: Kingma and Ba 2015, algorithm 1. Reads b1, b2, eps."""
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


def _sgd(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns the gradient itself as the direction."""
    return optax.identity()


def _momentum(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds heavy-ball momentum, m = momentum * m + gradient. Source: Polyak 1964. Reads momentum."""
    return optax.trace(decay=config.momentum)


def _rmsprop(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds RMSprop, gradient / (root mean square + eps), with heavy-ball momentum as in PyTorch.

    Source: Tieleman and Hinton 2012, lecture 6.5. Reads b2 (decay of the mean square,
    which starts at 0 without bias correction), eps, momentum.
    """
    return optax.chain(
        optax.scale_by_rms(decay=config.b2, eps=config.eps, eps_in_sqrt=False),
        optax.trace(decay=config.momentum),
    )


def _adagrad(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds Adagrad, gradient / sqrt(sum of squares + eps^2).

    Source: Duchi et al. 2011, section 1. Reads eps.
    Differs: eps^2 is inside the root; in the paper eps is added to the root. The sum
    starts at 0, because Optax's default of 0.1 would outweigh a language model's gradients.
    """
    return optax.scale_by_rss(initial_accumulator_value=0.0, eps=config.eps**2)


def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds Adafactor without a first moment.

    Source: Shazeer and Stern 2018, Adafactor, algorithms 4 and 5. Reads none of the
    constants. Steps are relative to the root mean square of each parameter, so the
    learning rate is about ten times that of AdamW; 1e-2 is common.
    Differs: second moments are factored only if both axes have at least 128 entries, as
    in the authors' code.
    """
    return per_layer(
        optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),  # d in the paper
            optax.scale_by_param_block_rms(),
        )
    )


def _lion(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds Lion.

    Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2.
    Reads b1, b2. Every entry moves by the full learning rate, so a learning rate 3 to 10
    times smaller than AdamW's and a weight decay larger by the same factor are common.
    """
    return optax.scale_by_lion(b1=config.b1, b2=config.b2)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds Muon for the matrices of the layers, and AdamW for all other parameters.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks.
    The scale is that of Liu et al. 2025, Muon is Scalable for LLM Training, section 2.2,
    so that Muon and AdamW share one learning rate and one weight decay. Reads momentum
    (Nesterov), b1, b2, eps.
    Differs: the momentum is bias-corrected, which gives the gradient more weight in the
    first updates.
    """
    return _on_layer_matrices(
        config,
        _orthogonalized(config),
        optax.stateless_with_tree_map(lambda update, _: MUON_UPDATE_RMS * max(jnp.shape(update)[-2:]) ** 0.5 * update),
    )


def _normuon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds NorMuon for the matrices of the layers, and AdamW for all other parameters.

    Source: Li et al. 2025, NorMuon: Making Muon More Efficient and Scalable, algorithm 1. Reads momentum (Nesterov),
    b1, b2, eps.
    Differs: the momentum is bias-corrected, as that of muon.
    """
    return _on_layer_matrices(
        config, _orthogonalized(config), scale_by_output_rms(config.b2, config.eps, MUON_UPDATE_RMS)
    )


def _orthogonalized(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds Nesterov momentum, orthogonalised by Newton-Schulz iterations on the last two axes."""
    last_two_axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    return optax.contrib.scale_by_muon(
        MUON_COEFFICIENTS,
        beta=config.momentum,
        weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: last_two_axes, updates),
    )


def _on_layer_matrices(
    config: OptimizerConfig, *directions: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Chains directions for the matrices of the layers, which `optax.partition` labels muon; others get AdamW."""
    return optax.partition(
        {"muon": optax.chain(*directions), "adamw": _adam(config)},
        lambda params: jax.tree.map_with_path(
            lambda path, leaf: "muon" if is_layer_matrix(leaf_name(path), leaf) else "adamw", params
        ),
    )


BUILT_IN = {
    "adamw": _adam,
    "adam": _adam,
    "sgd": _sgd,
    "momentum": _momentum,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
    "normuon": _normuon,
}
"""Optimizers by name: a new built-in one is a function and a line here."""

add_built_in("optimizer", DIRECTIONS, BUILT_IN)


ELEMENTWISE = frozenset({"adamw", "adam", "sgd", "momentum", "rmsprop", "adagrad", "lion"})
"""Optimizers whose update of an element depends on that element alone, so that they can update shards."""


def needs_whole(optimizer: str) -> Callable[[str, Any], bool] | None:
    """Returns which parameters, by name and leaf, an optimizer must see whole; None: it can update shards.

    An optimizer of the user counts as one that must see every parameter whole.
    """
    if optimizer in ELEMENTWISE:
        return None
    return is_layer_matrix if optimizer in ("muon", "normuon") else lambda name, leaf: True


def make_optimizer(
    config: OptimizerConfig, adapt: Adapt = lambda direction, _: direction
) -> optax.GradientTransformation:
    """Builds the optimizer, without clipping.

    The schedule counts calls of `update`, so a step that skips a bad update must keep the
    old optimizer state. Scanned and unrolled models receive equal updates. The optimizer
    state consists of tuples, dicts and arrays only; it has none for frozen parameters.

    Args:
        config: Optimizer configuration. Each optimizer reads the keys documented at its
            function above, the keys of the schedule, and weight_decay. The exception is
            adam, which ignores weight_decay; use adamw instead.
        adapt: Makes a direction work on sharded parameters; by default parameters are whole.

    Returns:
        Optax transformation whose `update` requires the parameters.
    """
    direction = DIRECTIONS[config.name](config)
    if config.name not in BUILT_IN:
        direction = checked_direction(config.name, direction)
    rules = scaling_rules(config.freeze, config.scales)
    parts = [adapt(on_trained(direction, rules), needs_whole(config.name))]
    if (config.weight_decay > 0 or config.weight_decay_end) and config.name != "adam":
        parts.append(decayed_weights(config))
    parts.append(optax.scale_by_learning_rate(make_schedule(config)))
    if rules or config.layer_decay != 1:
        parts.append(scale_by_rules(rules, config.layer_decay))
    return optax.chain(*parts)


def clip_factor(norm: jax.Array, max_norm: float) -> jax.Array | float:
    """Returns the factor that scales gradients to a global norm of at most `max_norm`.

    Source: Pascanu et al. 2013, On the difficulty of training recurrent neural
    networks, section 3.2.

    Args:
        norm: Global norm of the gradients, `[] float32`.
        max_norm: Maximum global norm; 0: no clipping.
    """
    return jnp.minimum(1.0, max_norm / norm) if max_norm else 1.0


def update_ema(ema: PyTree, params: PyTree, decay: float) -> PyTree:
    """Updates the exponential moving average (EMA) of the parameters.

    Args:
        ema: Previous average, float32; initially a copy of the parameters.
        params: Updated parameters, a tree of the same structure.
        decay: Weight of the previous average, at least 0 and below 1.

    Returns:
        decay * ema + (1 - decay) * params, computed as a small correction of `ema`, which
        has a smaller rounding error if the decay is near 1.
    """
    return jax.tree.map(lambda average, param: average + (1 - decay) * (param - average), ema, params)
