"""Prepared run: resolved configuration, dataset and task, before any device is used."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdp.data.assembly import load_dataset
from jaxdp.data.dataset import Dataset, DatasetSpec
from jaxdp.data.vocabularies import NONE, Vocabularies
from jaxdp.inference.initial_params import with_initial_model
from jaxdp.run_config import RunConfig
from jaxdp.tasks import Task
from jaxdp.tasks.make import dataset_spec, make_task
from jaxdp.tasks.resolved_config import resolve


@dataclasses.dataclass(frozen=True)
class PreparedRun:
    """Parts of a run that are settled before JAX starts.

    Attributes:
        config: Resolved configuration.
        spec: Specification of the dataset.
        data: The dataset.
        task: Task with the vocabularies of the dataset.
        total_steps: Optimizer updates of the run.
    """

    config: RunConfig
    spec: DatasetSpec
    data: Dataset
    task: Task
    total_steps: int


def prepare_run(config: RunConfig, known: Vocabularies = NONE, saved: Mapping[str, Any] | None = None) -> PreparedRun:
    """Prepares the data where that has not been done, and resolves the configuration.

    Args:
        config: Configuration of the run.
        known: Vocabularies that the run has already.
        saved: Configuration in the run's newest checkpoint, as JSON values; None: the run is new.

    Raises:
        UserError: Anything wrong with the data, or with the keys that describe it or the model.
    """
    config = with_initial_model(config, saved)
    spec = dataset_spec(config)
    data = load_dataset(spec, known)
    task = make_task(config, data.vocabularies)
    return PreparedRun(
        resolve(config, task, data.vocab_size),
        spec,
        data,
        task,
        config.num_steps(data.train.num_rows if data.train else None),
    )
