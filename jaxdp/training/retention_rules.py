"""Retention rules of a run, from its configuration. Imports no jax."""

from jaxdp.checkpoint.retention import Retention
from jaxdp.run_config import RunConfig


def farthest_rollback(max_skipped_in_a_row: int, delay: int = 0) -> int:
    """Returns the largest distance, in steps, from the last bad update back to the checkpoint of a rollback.

    Args:
        max_skipped_in_a_row: Number of bad updates.
        delay: Number of steps between reading a batch and its update.
    """
    return 2 * max_skipped_in_a_row + delay


def retention_of(config: RunConfig, higher_is_better: bool) -> Retention:
    """Returns what `checkpoint.keep_*`, `eval.metric` and the rollbacks ask for.

    Args:
        config: Configuration of the run.
        higher_is_better: Direction of `eval.metric`.
    """
    return Retention(
        config.checkpoint.keep_latest,
        config.checkpoint.keep_best,
        config.checkpoint.keep_every_steps,
        config.eval.metric,
        keep_back_steps=farthest_rollback(config.optim.max_skipped_in_a_row, config.parallel.delay),
        higher_is_better=higher_is_better,
    )
