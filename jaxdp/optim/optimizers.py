"""Name of an optimizer to its Optax chain.

A chain is always direction, then weight decay, then learning rate:

    params -= scale * learning_rate(n) * (direction + weight_decay * params)

so decay is decoupled from the gradient's scaling (Loshchilov and Hutter 2019)
and multiplied by the learning rate, as in PyTorch's AdamW, for every optimizer.
It applies to the parameters of `decay_mask`. `scale` is 1 but for the parameters that
`jaxdp.optim.scaling` has a rule for. Clipping is not in the chain: the
step knows the norm already and multiplies by `clip_factor`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim.config import OptimizerConfig, OptimizerName
from jaxdp.optim.rules import decay_mask, is_layer_matrix, per_layer
from jaxdp.optim.scaling import scale_by_rules, scaling_rules
from jaxdp.optim.schedules import make_schedule
from jaxdp.trees import leaf_name
from jaxdp.typing import PyTree

# One row an iteration, Jordan's same row each time: given a single row Optax
# unrolls the iterations, which on CPU takes twice the time and several times the memory.
MUON_COEFFICIENTS = ((3.4445, -4.7750, 2.0315),) * 5
MUON_UPDATE_RMS = 0.2  # root mean square of an AdamW update, which Muon's is made to match


def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """Source: Kingma and Ba 2015, algorithm 1. Reads b1, b2, eps."""
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


def _sgd(config: OptimizerConfig) -> optax.GradientTransformation:
    """The gradient itself."""
    return optax.identity()


def _momentum(config: OptimizerConfig) -> optax.GradientTransformation:
    """Heavy ball: m = momentum * m + gradient. Source: Polyak 1964. Reads momentum."""
    return optax.trace(decay=config.momentum)


def _rmsprop(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradient / (root of the mean square + eps), then heavy ball, as in PyTorch.

    Source: Tieleman and Hinton 2012, lecture 6.5. Reads b2 (decay of the mean
    square, which starts at 0 and is not corrected for it), eps, momentum.
    """
    return optax.chain(
        optax.scale_by_rms(decay=config.b2, eps=config.eps, eps_in_sqrt=False),
        optax.trace(decay=config.momentum),
    )


def _adagrad(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradient / sqrt(sum of squares + eps^2).

    Source: Duchi et al. 2011, section 1. Reads eps.
    Departs: eps^2 under the root, where the paper has eps beside it. The sum
    starts at 0; Optax's own 0.1 would outweigh a language model's gradients.
    """
    return optax.scale_by_rss(initial_accumulator_value=0.0, eps=config.eps**2)


def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """Source: Shazeer and Stern 2018, Adafactor, algorithms 4 and 5, without first moment.

    Reads none of the constants. Steps are relative to each parameter's own root
    mean square, so its learning rate is some ten times AdamW's: 1e-2 is usual.
    Departs: factors only where both axes have at least 128 entries, as the
    authors' own code does.
    """
    return per_layer(
        optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),  # d in the paper
            optax.scale_by_param_block_rms(),
        )
    )


def _lion(config: OptimizerConfig) -> optax.GradientTransformation:
    """Source: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, algorithm 2.

    Reads b1, b2. Every entry moves by the full learning rate, so it wants a
    third to a tenth of AdamW's, and as much more weight decay.
    """
    return optax.scale_by_lion(b1=config.b1, b2=config.b2)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon's direction for the matrices of the layers, AdamW's for all other parameters.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural
    networks; the scale is that of Liu et al. 2025, Muon is Scalable for LLM
    Training, section 2.2, under which one learning rate and one weight decay
    serve Muon and AdamW alike. Reads momentum (Nesterov), b1, b2, eps.
    Departs: both averages of the momentum are corrected for their start at 0,
    which in the first updates weighs the gradient more.
    """
    last_two_axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    orthogonalized = optax.contrib.scale_by_muon(
        MUON_COEFFICIENTS,
        beta=config.momentum,
        weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: last_two_axes, updates),
    )
    rescaled = optax.stateless_with_tree_map(
        lambda update, _: MUON_UPDATE_RMS * max(update.shape[-2:]) ** 0.5 * update
    )
    return optax.partition(
        {"muon": optax.chain(orthogonalized, rescaled), "adamw": _adam(config)},
        lambda params: jax.tree.map_with_path(
            lambda path, leaf: "muon" if is_layer_matrix(leaf_name(path), leaf) else "adamw", params
        ),
    )


DIRECTIONS: dict[OptimizerName, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": _adam,
    "adam": _adam,
    "sgd": _sgd,
    "momentum": _momentum,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
}


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optimizer of `config`, without clipping.

    Its schedule counts the updates it was asked for, so a step that skips a bad
    update must keep the old optimizer state. Scanned and unrolled models take
    equal updates. The state is a nest of tuples and dicts of arrays.

    Args:
        config: which keys each optimizer reads is said at its function above;
            all read the schedule's keys and weight_decay, but for adam, which
            by definition does not decay: with decay it is adamw.

    Returns:
        An Optax transformation; `update` needs the parameters.
    """
    parts = [DIRECTIONS[config.name](config)]
    if config.weight_decay > 0 and config.name != "adam":
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=decay_mask))
    parts.append(optax.scale_by_learning_rate(make_schedule(config)))
    rules = scaling_rules(config.freeze, config.scales)
    if rules or config.layer_decay != 1:
        parts.append(scale_by_rules(rules, config.layer_decay))
    return optax.chain(*parts)


def clip_factor(norm: jax.Array, max_norm: float) -> jax.Array | float:
    """What gradients are multiplied by, so that their global norm is at most `max_norm`.

    Source: Pascanu et al. 2013, On the difficulty of training recurrent neural
    networks, section 3.2.

    Args:
        norm: `[]` float32, the global norm of the gradients.
        max_norm: 0 for no clipping.
    """
    return jnp.minimum(1.0, max_norm / norm) if max_norm else 1.0


def update_ema(ema: PyTree, params: PyTree, decay: float) -> PyTree:
    """Exponential moving average of the parameters after one more update.

    Args:
        ema: tree of float32 arrays; at the start a copy of the parameters.
        params: the updated parameters, a tree of the same structure.
        decay: share of the old average that stays, 0 to below 1.

    Returns:
        decay * ema + (1 - decay) * params, written as a small correction of
        `ema`, which rounds less when decay is near 1.
    """
    return jax.tree.map(lambda average, param: average + (1 - decay) * (param - average), ema, params)
