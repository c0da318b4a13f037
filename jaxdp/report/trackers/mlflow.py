"""MLflow: one run over all restarts, on a tracking server or in a SQLite file of the work directory."""

import io
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.report.trackers.run_record import RunRecord
from jaxdp.report.trackers.tracker import Tracker, hyperparameters, import_package, project_of
from jaxdp.report.writer_registry import RunInfo
from jaxdp.report.writers import Value

MAX_PARAM_LETTERS, MAX_PARAMS, MAX_METRICS = 6000, 100, 1000
"""Limits of one request and of a parameter at MLflow."""

RUN_TAG = "jaxdp.run_id"
"""Tag by which a restart finds the MLflow run, since MLflow chooses the ids of runs itself."""


class MlflowTracker(Tracker):
    """Tracker that writes an MLflow run through the client, without MLflow's global active run.

    MLFLOW_TRACKING_URI names the server; unset, everything is in WORKDIR/mlflow.
    """

    def __init__(self, info: RunInfo, record: RunRecord):
        """Creates the run, or finds that of an earlier start.

        Args:
            info: Facts of the run.
            record: Run id, a tag of the MLflow run.

        Raises:
            UserError: The extra `mlflow` is not installed.
        """
        mlflow = import_package("mlflow", "mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # the creation of each table
        self._entities: Any = import_package("mlflow.entities", "mlflow")
        directory = info.workdir / "mlflow"
        server = os.environ.get("MLFLOW_TRACKING_URI")
        self._client: Any = mlflow.MlflowClient(tracking_uri=server or f"sqlite:///{directory / 'mlflow.db'}")
        self._pending: list[Any] = []
        experiment = self._experiment(
            project_of(info, "MLFLOW_EXPERIMENT_NAME"), None if server else (directory / "artifacts").as_uri()
        )
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{record.run_id}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            tags = {RUN_TAG: record.run_id} | {f"tag.{tag}": "true" for tag in info.config.log.wandb_tags}
            if group := info.config.log.wandb_group:
                tags["group"] = group
            self._run_id = self._client.create_run(experiment, tags=tags, run_name=info.workdir.name).info.run_id
        self._send_parameters(hyperparameters(info)[1], found[0].data.params if found else {})

    def _experiment(self, name: str, artifacts: str | None) -> str:
        """Returns the id of the experiment, which is created if it is new."""
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name, artifact_location=artifacts)

    def _send_parameters(self, values: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Sends the hyperparameters that the run does not have; MLflow refuses to change the others."""
        texts = {name: json.dumps(value) if value is None else str(value) for name, value in values.items()}
        new = [
            self._entities.Param(name, text[:MAX_PARAM_LETTERS]) for name, text in texts.items() if name not in known
        ]
        for first in range(0, len(new), MAX_PARAMS):
            self._client.log_batch(self._run_id, params=new[first : first + MAX_PARAMS])

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Gathers numbers as metrics; MLflow has no texts over steps, and they become tags."""
        now = round(1000 * time.time())
        for name, value in values.items():
            entity = (
                self._entities.RunTag(name, value)
                if isinstance(value, str)
                else self._entities.Metric(name, value, now, step)
            )
            self._pending.append(entity)

    def write_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Stores the samples as a JSON artifact of their step."""
        text = json.dumps([dict(each) for each in samples], indent=2, ensure_ascii=False)
        self._client.log_text(self._run_id, text, f"samples/step_{step:09}.json")

    def write_figure(self, step: int, name: str, png: bytes) -> None:
        """Stores the picture as an artifact of its step."""
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._client.log_image(self._run_id, picture, f"{name}/step_{step:09}.png")

    def flush(self) -> None:
        """Sends the gathered metrics in as few requests as MLflow allows."""
        while self._pending:
            batch = self._pending[:MAX_METRICS]
            metrics = [each for each in batch if isinstance(each, self._entities.Metric)]
            tags = {each.key: each for each in batch if isinstance(each, self._entities.RunTag)}
            self._client.log_batch(self._run_id, metrics=metrics, tags=list(tags.values()))
            del self._pending[: len(batch)]

    def close(self) -> None:
        """Sends the rest and ends the run."""
        self.flush()
        self._client.set_terminated(self._run_id, "FINISHED")
