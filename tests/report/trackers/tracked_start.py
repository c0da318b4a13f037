"""One start of a run that writes to a real tracking service: `python tracked_start.py WORKDIR NAME FIRST LAST [kill]`.

A process of its own, since the packages of the services start threads and processes that outlive a test.
"""

import io
import os
import signal
import sys
import time
from pathlib import Path

from jaxdp.config import parse_config
from jaxdp.report.trackers.registry import open_trackers
from jaxdp.report.writer_registry import RunInfo


def png() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (3, 2)).save(content, "png")
    return content.getvalue()


def main(workdir: Path, name: str, first: int, last: int, kill: bool) -> None:
    workdir.mkdir(exist_ok=True)
    log = {name: True, "wandb_tags": ("a", "b"), "wandb_group": "g", "wandb_project": "p"}
    config = parse_config({"total_steps": 10, "log": log, "data": {"path": "https://ann:secretpw@host/a.txt"}})
    [tracker] = open_trackers(RunInfo(config, workdir, first, 10, True, lambda step, values: None))
    for step in range(first + 1, last + 1):
        tracker.write(step, {"train/loss": 1 / step, "train/grad_norm": float("nan"), "data/batch_hash": f"{step:04x}"})
        if step % 5 == 0:
            tracker.write(step, {"eval/loss": 2 / step})
            tracker.write_samples(step, [{"source": "a", "output": "b"}])
            tracker.write_figure(step, "eval/report", png)
    if kill:
        deadline = time.monotonic() + 300
        while tracker._waiting and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(6)  # until tensorboardX and wandb have put the points on disk
        os.kill(os.getpid(), signal.SIGKILL)
    tracker.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:] == ["kill"])
