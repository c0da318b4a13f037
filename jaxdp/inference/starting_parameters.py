"""Initial parameters of a run with `init_from`: the parameters of another model, taken by the rules of `init_rules`."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdp.data.vocabularies import NONE, Vocabularies
from jaxdp.inference.initial_params import initial_model
from jaxdp.inference.trained_run import initial_vocabularies
from jaxdp.inspection.layers import collapse
from jaxdp.interop.init_rules import MATCH_TOKENS, Rule, parse_rules
from jaxdp.interop.source import ParameterSource
from jaxdp.interop.views import Scanned, Unscanned
from jaxdp.interop.warm_start import Origin, TokenizerPair, WarmStartPlan, WarmStartSource, plan_warm_start
from jaxdp.report.terminal import quantity
from jaxdp.run_config import RunConfig
from jaxdp.trees import is_scanned, leaf_name, named_leaves, unrolled_names
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class StartingParameters:
    """Initial parameters of a run with `init_from`.

    Attributes:
        params: Parameters of the new model.
        source: Kind and path of the source in words.
        plan: Origin of each parameter.
    """

    params: PyTree
    source: str
    plan: WarmStartPlan

    def to_json(self) -> dict[str, Any]:
        """Returns the source and the origin of each parameter as JSON values."""
        return {"source": self.source, **self.plan.to_json()}

    def describe(self) -> str:
        """Returns a readable summary: parameters that were taken, renamed, resized, are new, or were dropped."""
        plan = self.plan
        taken = [path for path, origin in plan.origins.items() if origin.source is not None]
        numbers = quantity(int(sum(np.prod(plan.shapes[path]) for path in taken)))
        parts = [f"took {len(taken)} parameters ({numbers} numbers)"]
        by_rule: dict[Rule, list[str]] = {}
        for path, origin in plan.origins.items():
            for rule in origin.rules if origin.kind in ("renamed", "initialised") else ():
                by_rule.setdefault(rule, []).append(path)
        parts += [
            f"{'initialised' if rule.verb == 'init' else 'renamed'} by {rule}: {_listed(paths, plan.shapes)}"
            for rule, paths in sorted(by_rule.items())
        ]
        parts += [
            f"resized: {_resized(path, plan)}" for path, origin in plan.origins.items() if origin.rows is not None
        ]
        new = [path for path, origin in plan.origins.items() if origin.source is None and not origin.rules]
        dropped = dict(self.plan.dropped)
        parts += [f"new: {_listed(sorted(new), plan.shapes)}"] if new else []
        for rule in sorted({rule for rule in dropped.values() if rule is not None and rule.verb == "drop"}):
            parts.append(f"dropped by {rule}: {_listed([path for path, by in dropped.items() if by == rule])}")
        others = [path for path, by in dropped.items() if by is None]
        return "; ".join(parts + ([f"dropped: {_listed(others)}"] if others else []))


def start_from(config: RunConfig, fresh: PyTree, vocabularies: Vocabularies = NONE) -> StartingParameters:
    """Reads the parameters that `init_from` names, its moving average where it has one, into a model of any task.

    Args:
        config: Configuration with `init_from`; see `jaxdp.interop.open_source` and `jaxdp.interop.init_rules`.
        fresh: Parameters as they were initialised, in their true shapes.
        vocabularies: Vocabularies of the new run.

    Raises:
        UserError: There is no model, or its body has other names or shapes than the rules expect; both sides are shown.
        DamageFound: It is not what was written.
    """
    parameters = initial_model(config).parameters
    plan = _plan(config, parameters, fresh, vocabularies)
    names, leaves = unrolled_names(fresh), dict(named_leaves(fresh))
    blank = [
        path for own in names.values() if _is_taken(own, plan) for path in own if plan.origins[path].source is None
    ]
    taken = WarmStartSource(Unscanned(parameters), plan, blank)
    has_scanned = any(map(is_scanned, names))
    placed = {}
    for name, array in (Scanned(taken) if has_scanned else taken).read_all():  # goes to the devices as it is read
        origins = [plan.origins[path] for path in names[name]]
        placed[name] = _placed(leaves[name], array, _is_initialised(origins, leaves[name].ndim))
    params = jax.tree.map_with_path(lambda path, leaf: placed.get(leaf_name(path), leaf), fresh)
    return StartingParameters(params, parameters.describe(), plan)


def check_initial(config: RunConfig, params: PyTree, vocabularies: Vocabularies = NONE) -> None:
    """Checks that `start_from` would find the body of this model, before anything is compiled for it.

    Args:
        config: As for `start_from`.
        params: The new model's parameters, or their shapes.
        vocabularies: Vocabularies of the new run.

    Raises:
        UserError: There is no model, or its body has other names or shapes; both sides are shown.
        DamageFound: The manifest is not what was written.
    """
    _plan(config, initial_model(config).parameters, params, vocabularies)


def _plan(config: RunConfig, parameters: ParameterSource, params: PyTree, vocabularies: Vocabularies) -> WarmStartPlan:
    there = {path: spec.shape for path, spec in Unscanned(parameters).arrays.items()}
    here = {
        path: tuple(leaf.shape[1:] if is_scanned(name) else leaf.shape)
        for (name, leaf), own in zip(named_leaves(params), unrolled_names(params).values(), strict=True)
        for path in own
    }
    rules = parse_rules(config.init_rules)
    matches_tokens = any(rule.verb == MATCH_TOKENS for rule in rules)
    tokenizers = _tokenizers(config, vocabularies) if matches_tokens else None
    return plan_warm_start(f"init_from={config.init_from}", there, here, rules, tokenizers)


def _tokenizers(config: RunConfig, here: Vocabularies) -> Mapping[str, TokenizerPair] | None:
    """Returns the tokenizers of both models by their side; None: one has none."""
    there = initial_vocabularies(config)
    if here.tokenizer is None or there.tokenizer is None:
        return None
    return {
        "input": (here.input_tokenizer, there.input_tokenizer),
        "output": (here.output_tokenizer, there.output_tokenizer),
    }


def _is_taken(paths: Iterable[str], plan: WarmStartPlan) -> bool:
    """Returns whether a parameter, by its paths in the unrolled model, has values of the source."""
    return any(plan.origins[path].source is not None for path in paths)


def _is_initialised(origins: list[Origin], rank: int) -> np.ndarray | None:
    """Returns which elements of a parameter are initialised, in a shape that broadcasts to it; None: none.

    Args:
        origins: Origin of the parameter, or of each of its layers.
        rank: Number of axes, that of the layers included.
    """
    if len(origins) == 1 and origins[0].rows is not None:
        return origins[0].rows.is_initialised(rank)
    layers = np.array([origin.source is None for origin in origins])
    return layers.reshape(-1, *[1] * (rank - 1)) if layers.any() else None


def _placed(leaf: jax.Array, values: np.ndarray, is_initialised: np.ndarray | None) -> jax.Array:
    """Returns an array on the devices of an initialised one, with these values except where it keeps its own."""
    values = np.asarray(values, leaf.dtype)
    if is_initialised is None:
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])
    own = {repr(shard.index): shard.data for shard in leaf.addressable_shards}
    mask = np.broadcast_to(is_initialised, leaf.shape)
    return jax.make_array_from_callback(
        leaf.shape, leaf.sharding, lambda index: np.where(mask[index], np.asarray(own[repr(index)]), values[index])
    )


def _listed(paths: Iterable[str], shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """Lists paths with one entry for all layers."""
    arrays = ({"path": path, "shape": (shapes or {}).get(path, ()), "dtype": "", "bytes": 0} for path in paths)
    return ", ".join(dict.fromkeys(row.path for row in collapse(arrays)))


def _resized(path: str, plan: WarmStartPlan) -> str:
    origin = plan.origins[path]
    by = f" by {origin.rules[-1]}" if origin.rules else ""
    return f"{path} from {list(origin.shape_there or ())} to {list(plan.shapes[path])}{by}: {origin.rows}"
