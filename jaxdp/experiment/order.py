"""Which rows are in which batch, as the configuration asks."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from jaxdp.data.order.mixture import MixtureOrder, mixture_weights
from jaxdp.data.order.partition import PARTITIONS
from jaxdp.data.order.row_order import Order, RowOrder
from jaxdp.errors import UserError
from jaxdp.experiment.dataset import Data, Group


def row_order(config: ConfigDict, data: Data, exclusions: tuple[int, ...] = ()) -> Order:
    """Which rows are in which batch."""
    if config.data.partition not in PARTITIONS:
        raise UserError(f"data.partition={config.data.partition!r} is unknown; choose one of: {', '.join(PARTITIONS)}.")
    shared = {
        "global_batch_size": config.global_batch_size,
        "seed": config.seed,
        "shuffle": config.data.shuffle,
        "exclusions": exclusions,
    }
    if len(data.groups) == 1:
        return RowOrder(num_rows=data.train.num_rows, **shared)
    sizes = tuple(group.num_rows for group in data.groups)
    weights = mixture_weights(sizes, [group.weight for group in data.groups], config.data.temperature)
    return MixtureOrder(sizes=sizes, weights=weights, **shared)


def source_shares(
    order: Order, groups: Sequence[Group], first_step: int, last_step: int
) -> dict[str, float]:
    """`data/share/<source>` of a mixture: its share of the rows of some batches; nothing without a mixture."""
    if not isinstance(order, MixtureOrder):
        return {}
    rows = order.shares(first_step, last_step)
    return {f"data/share/{group.name}": float(share) for group, share in zip(groups, rows / rows.sum(), strict=True)}
