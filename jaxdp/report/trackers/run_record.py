"""Identity of a run at a tracker, kept over restarts: run id, and the last step sent of each group of metrics."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxdp.atomic_files import write_atomically
from jaxdp.errors import UserError
from jaxdp.json_files import read_json

FREE_GROUPS = ("log", "eval", "checkpoint", "parallel")
"""Groups of the configuration that may change while a run stays the same run."""


class RunRecord:
    """Files `run_id` and `sent_steps.json` in the directory of a tracker.

    The groups of metrics are kept apart because a run may be killed between the training metrics of a step and its
    evaluation: the evaluation is then sent by the next start, and the training metrics are not sent again.

    Attributes:
        run_id: 32 hexadecimal digits; another run id in the same work directory only for another training
            configuration from step 0 on.
        is_new: Whether the id was made by this object.
    """

    def __init__(self, directory: Path, config: Mapping, first_step: int):
        """Reads the record, or makes a new one.

        Args:
            directory: Directory of the tracker in the work directory, created if missing.
            config: Resolved configuration, plain JSON values.
            first_step: Number of updates completed at the start.
        """
        self._id_file, self._steps_file = directory / "run_id", directory / "sent_steps.json"
        self._digest = hashlib.sha256(
            json.dumps({key: config[key] for key in config if key not in FREE_GROUPS}).encode()
        ).hexdigest()
        record = self._read()
        found = self._id_file.read_text(encoding="utf-8").strip() if self._id_file.is_file() else ""
        is_other = first_step == 0 and record.get("config", self._digest) != self._digest
        self.is_new = not found or is_other
        self.run_id = uuid.uuid4().hex if self.is_new else found
        steps = record.get("steps")
        steps = steps if isinstance(steps, dict) and not self.is_new else {}
        self._before = {name: step for name, step in steps.items() if isinstance(step, int)}
        self._steps = dict(self._before)
        if self.is_new:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(self._id_file, self.run_id)
            self.save()

    def _read(self) -> dict:
        """Returns the file of steps; {} if it is missing or damaged, since a new one replaces it."""
        try:
            return read_json(self._steps_file, "the steps that a tracker has received")
        except UserError:
            return {}

    def is_sent(self, step: int, name: str) -> bool:
        """Returns whether an earlier start sent this step of the metric's group."""
        return step <= self._before.get(_group(name), -1)

    def add(self, step: int, names: Iterable[str]) -> None:
        """Counts metrics as sent; `save` makes it last."""
        for group in set(map(_group, names)):
            self._steps[group] = max(step, self._steps.get(group, -1))

    def save(self) -> None:
        """Writes the steps."""
        write_atomically(self._steps_file, json.dumps({"config": self._digest, "steps": self._steps}) + "\n")


def _group(name: str) -> str:
    return name.partition("/")[0]
