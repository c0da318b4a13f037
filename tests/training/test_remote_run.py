"""Runs in object storage, against an S3 server on loopback."""

import json
import logging
import sys

import pytest
import tiny_runs
from tiny_runs import assert_refused

from jaxdp.cli.main import main
from jaxdp.storage import cloud_store
from jaxdp.storage.lease import Lease
from jaxdp.storage.lease_content import KEY
from jaxdp.storage.location import remote_location

URL = "s3://bucket/runs/tiny"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache directory of a machine of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machine"))
    return tmp_path / "machine" / "jaxdp" / "remote"


def store(url=URL):
    return cloud_store.open_store(remote_location(url, "--workdir"), "--workdir")


@pytest.mark.parametrize(
    "workdir, message",
    [
        ("hdfs://bucket/run", "hdfs:// is not supported; expected a local path, s3://BUCKET/NAME or gs://BUCKET/NAME"),
        ("s3://", "names no bucket"),
        ("s3://nowhere/run", "s3://nowhere/run/logs cannot be listed: the bucket does not exist"),
    ],
)
def test_a_place_that_is_not_fit_is_refused_before_anything_is_made(s3, cache, config_file, capsys, workdir, message):
    assert main(["train", f"--config={config_file}", f"--workdir={workdir}"]) == 2
    assert message in assert_refused(capsys)
    assert not cache.exists() and not store().list()


def test_a_missing_package_is_refused_before_anything_is_made(cache, config_file, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert main(["train", f"--config={config_file}", f"--workdir={URL}"]) == 2
    assert "pip install 'jaxdp[storage]'" in assert_refused(capsys)
    assert not cache.exists()


def test_a_second_run_is_refused(s3, cache, config_file, capsys, monkeypatch):
    from jaxdp.storage import lease

    monkeypatch.setattr(lease, "POLL_SECS", 0.001)
    with Lease(store(), "another machine") as first:
        read, looks = cloud_store.CloudStore.read, []

        def read_and_renew(self, key):
            if key == KEY and len(looks) == 1:
                first._replace()
            looks.append(key)
            return read(self, key)

        monkeypatch.setattr(cloud_store.CloudStore, "read", read_and_renew)
        assert main(["train", f"--config={config_file}", f"--workdir={URL}"]) == 2
    said = capsys.readouterr().err
    assert f"--workdir={URL} is in use by process" in said and "holds its lease until" in said


@pytest.mark.slow
@pytest.mark.parametrize("scheme, server", [("s3", "s3"), ("gs", "gcs")], ids=["s3", "gs"])
def test_a_run_moves_to_another_machine_and_ends_bitwise_as_on_a_disk(
    request, scheme, server, cache, config_file, tmp_path, monkeypatch, capsys
):
    request.getfixturevalue(server)
    url = f"{scheme}://bucket/runs/tiny"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    steady = [f"--config={config_file}", "--config.optim.schedule=constant"]
    assert main(["train", *steady, f"--workdir={url}", "--config.total_steps=3"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other_machine"))
    assert main(["train", *steady, f"--workdir={url}"]) == 0
    said = capsys.readouterr().err
    assert f"downloading checkpoint 3 of {url}" in said and "resuming from checkpoint 3 of 6" in said
    assert f"finished 6 steps; everything is in {url}" in said
    downloaded = tmp_path / "downloaded"
    for info in store(url).list():
        path = downloaded / info.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store(url).read(info.key)[0])
    on_disk = tmp_path / "on_disk"
    for total in (3, 6):
        assert main(["train", *steady, f"--workdir={on_disk}", f"--config.total_steps={total}"]) == 0
    tiny_runs.assert_same_bits(tiny_runs.saved_arrays(downloaded, 6), tiny_runs.saved_arrays(on_disk, 6))
    lines, expected = tiny_runs.metrics_lines(downloaded), tiny_runs.metrics_lines(on_disk)
    assert [(line["step"], line["train/loss"]) for line in lines] == [
        (line["step"], line["train/loss"]) for line in expected
    ]
    assert len(json.loads((downloaded / "provenance.json").read_text())) == 2
    capsys.readouterr()
    assert main(["eval", f"--workdir={url}", "--json"]) == 0
    of_url = json.loads(capsys.readouterr().out)
    assert main(["eval", f"--workdir={on_disk}", "--json"]) == 0
    assert of_url == json.loads(capsys.readouterr().out)
    assert main(["inspect", url, "--fingerprint"]) == main(["inspect", str(on_disk), "--fingerprint"]) == 0
    prints = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert prints[0] == prints[1]
    assert main(["inspect", url, "--verify", "--json"]) == 0
    assert [entry["verdict"] for entry in json.loads(capsys.readouterr().out)["checkpoints"]] == ["intact", "intact"]
    assert main(["export", f"--workdir={url}", f"--to={tmp_path / 'hf'}"]) == 0
    assert main(["train", *steady, f"--workdir={tmp_path / 'next'}", f"--config.init_from={url}", "--dry_run"]) == 0
