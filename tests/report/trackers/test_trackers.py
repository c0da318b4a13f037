"""The built-in trackers: what they send, what a restart continues, and what of a secret leaves the process."""

import dataclasses
import io
import json
import os
import sys

import pytest
from fake_trackers import FakeMlflow, FakeTrackio, FakeWandb

from jaxdp.config import parse_config
from jaxdp.errors import UserError
from jaxdp.report.trackers.background import Waits
from jaxdp.report.trackers.registry import TRACKERS, check_packages, open_trackers
from jaxdp.report.writer_registry import RunInfo

VARIABLES = ("WANDB_", "MLFLOW_", "TRACKIO_")


@pytest.fixture(autouse=True)
def no_services_in_the_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)


def info(workdir, first_step=0, **log):
    workdir.mkdir(exist_ok=True)
    config = parse_config({"total_steps": 10, "log": log, "data": {"path": "https://ann:secretpw@host/a.txt"}})
    return RunInfo(config, workdir, first_step, 10, True, lambda step, values: None)


def png():
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (3, 2)).save(content, "png")
    return content.getvalue()


def run(workdir, steps, **log):
    """One start that writes training metrics of `steps`, and an evaluation after the last."""
    [tracker] = open_trackers(info(workdir, steps[0] - 1, **log))
    for step in steps:
        tracker.write(step, {"train/loss": 1 / step})
    tracker.write(steps[-1], {"eval/loss": 2.0, "data/batch_hash": "9f"})
    tracker.write_samples(steps[-1], [{"source": "a", "output": "b"}, {"output": "c"}])
    tracker.write_figure(steps[-1], "eval/report", png)
    tracker.close()


@pytest.fixture
def wandb(monkeypatch):
    def install(**options):
        monkeypatch.setitem(sys.modules, "wandb", FakeWandb(**options))
        return sys.modules["wandb"]

    return install


def test_wandb_continues_its_run_without_repeated_points(wandb, tmp_path, capsys):
    fake = wandb()
    keys = {"wandb_project": "p", "wandb_entity": "e", "wandb_group": "g", "wandb_tags": ("a", "b")}
    run(tmp_path / "my_run", [1, 2, 3], wandb=True, **keys)
    run(tmp_path / "my_run", [3, 4], wandb=True, **keys)
    first, second = fake.inits
    names = ("project", "entity", "group", "tags", "name", "resume", "dir", "mode")
    assert [first[name] for name in names] == [
        "p", "e", "g", ["a", "b"], "my_run", "allow", str(tmp_path / "my_run"), "online",
    ]  # fmt: skip
    assert first["id"] == second["id"] == (tmp_path / "my_run" / "wandb" / "run_id").read_text()
    assert first["config"]["data"]["path"] == "https://ann:***@host/a.txt" and first["config"]["seed"] == 0
    settings = vars(first["settings"])
    assert settings["console"] == "off" and settings["x_disable_meta"] and settings["disable_git"]
    assert [(step, list(values)) for step, values in fake.lines] == [
        (1, ["train/loss"]), (2, ["train/loss"]), (3, ["train/loss"]), (3, ["eval/loss", "data/batch_hash"]),
        (3, ["samples"]), (3, ["eval/report"]),
        (4, ["train/loss"]), (4, ["eval/loss", "data/batch_hash"]), (4, ["samples"]), (4, ["eval/report"]),
    ]  # fmt: skip
    assert fake.lines[4][1]["samples"] == ("table", ["source", "output"], [["a", "b"], ["", "c"]])
    assert fake.lines[5][1]["eval/report"][1].startswith(b"\x89PNG")
    assert fake.finished == 2 and capsys.readouterr().err.count("wandb: https://wandb/run") == 2


def test_wandb_takes_the_project_of_the_environment(wandb, tmp_path, monkeypatch):
    fake = wandb()
    run(tmp_path / "a", [1], wandb=True)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run(tmp_path / "b", [1], wandb=True)
    run(tmp_path / "c", [1], wandb=True, wandb_project="p")
    assert [given["project"] for given in fake.inits] == ["jaxdp", "mine", "p"]
    assert all(given[name] is None for given in fake.inits for name in ("entity", "group", "tags"))


@pytest.mark.parametrize(
    ("options", "mode", "modes"),
    [
        ({"has_key": False}, None, ["offline"]),
        ({"unreachable": True}, None, ["online", "offline"]),
        ({"has_key": False}, "offline", ["offline"]),
        ({"has_key": False}, "online", ["online"]),
    ],
)
def test_wandb_records_offline_without_a_key_or_a_connection(
    wandb, tmp_path, monkeypatch, capsys, options, mode, modes
):
    fake = wandb(**options)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    run(tmp_path / "run", [1], wandb=True)
    assert [given["mode"] for given in fake.inits] == modes and len(fake.lines) == 4
    err = capsys.readouterr().err.replace("\n", "")
    assert ("wandb sync" in err) == (modes[-1] == "offline") and "secretpw" not in err
    assert ("wandb cannot be reached (Post https://ann:***@host/graphql: connection refused)" in err) == (
        len(modes) == 2
    )


def test_trackio_continues_its_run_and_prints_nothing_on_stdout(tmp_path, monkeypatch, capsys):
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    run(tmp_path / "run", [1, 2, 3], trackio=True, wandb_tags=("a",))
    run(tmp_path / "run", [3, 4], trackio=True, wandb_tags=("a",))
    first, second = fake.inits
    assert first["name"] == second["name"] and first["name"].startswith("run-") and first["resume"] == "allow"
    assert first["project"] == "jaxdp" and first["config"]["tags"] == "a"
    assert first["config"]["data.path"] == "https://ann:***@host/a.txt"
    assert [step for step, values in fake.lines if "train/loss" in values] == [1, 2, 3, 4]
    assert fake.lines[4] == (3, {"samples": ("markdown", fake.lines[4][1]["samples"][1])})
    assert fake.lines[5] == (3, {"eval/report": ("image", (3, 2))})
    assert fake.finished == 2 and capsys.readouterr().out == ""


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    return fake


def test_mlflow_continues_its_run_without_repeated_points(mlflow, tmp_path):
    keys = {"mlflow": True, "wandb_project": "p", "wandb_group": "g", "wandb_tags": ("a",)}
    run(tmp_path / "my_run", [1, 2, 3], **keys)
    run(tmp_path / "my_run", [3, 4], **keys)
    assert set(mlflow.uris) == {f"sqlite:///{tmp_path}/my_run/mlflow/mlflow.db"}
    assert mlflow.experiments == {"p": ("0", (tmp_path / "my_run" / "mlflow" / "artifacts").as_uri())}
    [found] = mlflow.runs.values()
    assert found.name == "my_run" and found.status == "FINISHED"
    assert [(key, step) for key, step, _ in found.metrics] == [
        *(("train/loss", step) for step in (1, 2, 3)), ("eval/loss", 3), ("train/loss", 4), ("eval/loss", 4),
    ]  # fmt: skip
    assert found.data.params["data.path"] == "https://ann:***@host/a.txt" and found.data.params["seed"] == "0"
    assert found.data.tags | {"jaxdp.run_id": ""} == {
        "jaxdp.run_id": "", "tag.a": "true", "group": "g", "data/batch_hash": "9f",
    }  # fmt: skip
    assert json.loads(found.files["samples/step_000000003.json"])[0] == {"source": "a", "output": "b"}
    assert found.files["eval/report/step_000000004.png"] == (3, 2)


def test_mlflow_sends_to_the_server_of_the_environment_after_an_outage(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    [tracker] = open_trackers(info(tmp_path / "run", mlflow=True), Waits(0.0, 0.001, 0.001, 30.0, 0.001))
    mlflow.fail = 3
    for step in (1, 2, 3):
        tracker.write(step, {"train/loss": 1.0})
    while not any(each.metrics for each in mlflow.runs.values()):
        tracker._thread.join(0.001)
        assert tracker._thread.is_alive()
    tracker.close()
    [found] = mlflow.runs.values()
    assert [step for _, step, _ in found.metrics] == [1, 2, 3]
    assert set(mlflow.uris) == {"http://host:5000"} and mlflow.experiments == {"mine": ("0", None)}
    assert not (tmp_path / "run" / "mlflow" / "mlflow.db").exists()


def test_tensorboard_events_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    run(tmp_path / "run", [7], tensorboard=True)
    (path,) = (tmp_path / "run" / "tensorboard").iterdir()
    content, events = path.read_bytes(), []
    while content:  # a record: length [8 bytes], its checksum [4], the event, its checksum [4]
        length = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    values = {value.tag: (event.step, value) for event in events for value in event.summary.value}
    assert values["train/loss"][1].simple_value == pytest.approx(1 / 7)
    assert values["data/batch_hash/text_summary"][1].tensor.string_val == [b"9f"]
    assert (values["eval/report"][1].image.width, values["eval/report"][1].image.height) == (3, 2)
    assert b"**output**" in values["samples/text_summary"][1].tensor.string_val[0]
    assert b'"seed": 0' in values["config/text_summary"][1].tensor.string_val[0]
    assert "_hparams_/session_start_info" in values and b"secretpw" not in path.read_bytes()
    assert values["train/loss"][0] == 7
    assert [event.step for event in events if event.session_log.status] == [7]


@pytest.mark.parametrize("extra", TRACKERS)
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, extra):
    monkeypatch.setitem(sys.modules, TRACKERS[extra].package, None)
    with pytest.raises(UserError, match=rf"log\.{extra} is on, .* pip install 'jaxdp\[{extra}\]'"):
        check_packages(dataclasses.replace(info(tmp_path / "run").config.log, **{extra: True}))
    with pytest.raises(UserError, match=rf"log\.{extra} is on, .* pip install 'jaxdp\[{extra}\]'"):
        list(open_trackers(info(tmp_path / "run", **{extra: True})))
    assert not list((tmp_path / "run").iterdir())


def test_tags_are_strings(tmp_path):
    with pytest.raises(UserError, match=r"log\.wandb_tags=\(1,\) must be a tuple of strings"):
        info(tmp_path, wandb_tags=(1,))
