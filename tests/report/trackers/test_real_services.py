"""The trackers with the packages of the services, read back by other code; tests of packages that are not installed are skipped."""

import importlib
import inspect
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import fake_trackers
import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("tracked_start.py")
KEY = "fakekey0123456789fakekey0123456789abcdef"
LOSSES = {step: pytest.approx(1 / step) for step in range(1, 11)}


def start(tmp_path, name, first, last, *how, **variables):
    """One start, with a fake key in the environment; returns all that it printed."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW", "TRACKIO"))
    }
    keys = {"WANDB_API_KEY": KEY, "MLFLOW_TRACKING_PASSWORD": KEY, "TRACKIO_WRITE_TOKEN": KEY}
    keys |= {"TRACKIO_DIR": str(tmp_path / "trackio_home"), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    arguments = [sys.executable, str(SCRIPT), str(tmp_path / "run"), name, str(first), str(last), *how]
    done = subprocess.run(
        arguments, env=environment | keys | variables, capture_output=True, text=True, timeout=500, check=not how
    )
    assert KEY not in done.stdout + done.stderr and "secretpw" not in done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(params=["stop", "kill"])
def two_starts(request, tmp_path):
    """Runs a service for steps 1 to 7 and, from the checkpoint of step 5 on, 6 to 10."""

    def run(name, **variables):
        how = ("kill",) if request.param == "kill" else ()
        start(tmp_path, name, 0, 7, *how, **variables)
        start(tmp_path, name, 5, 10, **variables)
        for path in tmp_path.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert KEY.encode() not in content and b"secretpw" not in content, path
        return tmp_path / "run"

    return run


def test_tensorboard_shows_each_point_once(two_starts):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    workdir = two_starts("tensorboard")
    events = accumulator.EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 11))
    assert {event.step: event.value for event in events.Scalars("train/loss")} == LOSSES
    assert [event.step for event in events.Scalars("eval/loss")] == [5, 10]
    assert [event.step for event in events.Images("eval/report")] == [5, 10]
    assert [event.step for event in events.Tensors("samples/text_summary")] == [5, 10]


def wandb_lines(path):
    """Rows of history of a .wandb file: a LevelDB log of protocol buffers, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, parts, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(parts))
            parts = b""
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    return runs[0], rows


def test_wandb_has_each_point_once_in_its_offline_files(two_starts):
    pytest.importorskip("wandb")
    workdir = two_starts("wandb", WANDB_MODE="offline")
    files = sorted(workdir.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    (run, first), (other, second) = map(wandb_lines, files)
    assert run.run_id == other.run_id == (workdir / "wandb" / "run_id").read_text()
    assert (run.project, run.display_name, run.run_group, list(run.tags)) == ("p", "run", "g", ["a", "b"])
    rows = first + second
    losses = [(row["_step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert [step for step, _ in losses] == list(range(1, 11)) and dict(losses) == LOSSES
    assert [row["_step"] for row in rows if "eval/loss" in row] == [5, 10]
    assert [row["_step"] for row in rows if any(name.startswith("samples") for name in row)] == [5, 10]


def test_wandb_records_offline_what_an_unreachable_server_does_not_take(tmp_path):
    pytest.importorskip("wandb")
    said = start(tmp_path, "wandb", 0, 3, WANDB_BASE_URL="http://127.0.0.1:9").replace("\n", " ")
    assert said.count("wandb cannot be reached") == 1 and "wandb sync" in said
    [path] = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    assert [row["_step"] for row in wandb_lines(path)[1] if "train/loss" in row] == [1, 2, 3]


def test_trackio_has_each_point_once_in_its_database(two_starts, tmp_path):
    pytest.importorskip("trackio")
    workdir = two_starts("trackio")
    with sqlite3.connect(tmp_path / "trackio_home" / "p.db") as database:
        rows = [
            (name, step, json.loads(row))
            for name, step, row in database.execute("SELECT run_name, step, metrics FROM metrics")
        ]
    database.close()
    assert {name for name, _, _ in rows} == {f"run-{(workdir / 'trackio' / 'run_id').read_text()[:8]}"}
    losses = [(step, row["train/loss"]) for _, step, row in rows if "train/loss" in row]
    assert [step for step, _ in losses] == list(range(1, 11)) and dict(losses) == LOSSES
    for name in ("eval/loss", "samples", "eval/report"):
        assert [step for _, step, row in rows if name in row] == [5, 10]


READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
[run] = client.search_runs([client.get_experiment_by_name("p").experiment_id])
histories = {key: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics}
print(json.dumps({"histories": histories, "params": run.data.params, "tags": run.data.tags, "status": run.info.status}))
"""


def test_mlflow_has_each_point_once_in_its_database(two_starts):
    pytest.importorskip("mlflow")
    workdir = two_starts("mlflow")
    command = [sys.executable, "-c", READ_MLFLOW, f"sqlite:///{workdir / 'mlflow' / 'mlflow.db'}"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    losses = found["histories"]["train/loss"]
    assert [step for step, _ in losses] == list(range(1, 11)) and {step: value for step, value in losses} == LOSSES
    assert [step for step, _ in found["histories"]["eval/loss"]] == [5, 10]
    assert found["params"]["data.path"] == "https://ann:***@host/a.txt" and found["status"] == "FINISHED"
    assert found["tags"]["group"] == "g" and found["tags"]["tag.a"] == "true"
    names = {path.name for path in workdir.glob("mlflow/artifacts/*/artifacts/**/*") if path.is_file()}
    assert names == {f"step_{step:09}.{kind}" for step in (5, 10) for kind in ("json", "png")}


PAIRS = [
    ("wandb", "FakeWandb.init", "init"), ("wandb", "FakeWandb.login", "login"), ("wandb", "FakeWandb.setup", "setup"), ("wandb", "FakeWandb.teardown", "teardown"),
    ("wandb", "FakeWandbRun.log", "Run.log"), ("wandb", "FakeWandbRun.finish", "Run.finish"),
    ("wandb", "FakeWandb.Table", "Table.__init__"), ("wandb", "FakeWandb.Image", "Image.__init__"),
    ("trackio", "FakeTrackio.init", "init"), ("trackio", "FakeTrackio.log", "Run.log"),
    ("trackio", "FakeTrackio.finish", "Run.finish"), ("trackio", "FakeTrackio.Markdown", "Markdown.__init__"),
    ("trackio", "FakeTrackio.Image", "Image.__init__"), ("mlflow", "FakeMlflow.MlflowClient", "MlflowClient.__init__"),
    *(("mlflow", f"FakeMlflowClient.{name}", f"MlflowClient.{name}") for name in (
        "get_experiment_by_name", "create_experiment", "search_runs", "create_run", "update_run", "set_terminated",
        "log_batch", "log_text", "log_image")),
    ("mlflow", "FakeMetric.__init__", "entities.Metric.__init__"), ("mlflow", "FakeParam.__init__", "entities.Param.__init__"),
    ("mlflow", "FakeTag.__init__", "entities.RunTag.__init__"),
]  # fmt: skip


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("package", "fake", "real"), PAIRS)
def test_the_stand_ins_of_the_default_tests_have_parameters_of_the_real_functions(package, fake, real):
    module = pytest.importorskip(package)
    if real.startswith("entities"):
        importlib.import_module("mlflow.entities")

    def parameters(root, path):
        for part in path.split("."):
            root = getattr(root, part)
        found = inspect.signature(root).parameters
        return [name for name in found if name != "self"]

    mine, theirs = parameters(fake_trackers, fake), parameters(module, real)
    assert set(mine) <= set(theirs)
    positional = [name for name in mine if name in theirs][:2] if fake.startswith(("FakeM", "FakeT")) else []
    assert positional == theirs[: len(positional)] or "log" not in fake


def test_the_settings_of_wandb_exist():
    wandb = pytest.importorskip("wandb")
    assert set(inspect.signature(fake_trackers.FakeWandb.settings).parameters) <= set(wandb.Settings.model_fields)
