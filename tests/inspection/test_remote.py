"""Inspection of URLs: a local HTTP server with range requests, and a file system of fsspec."""

import http.server
import json
import threading
from collections.abc import Mapping
from pathlib import Path

import fsspec
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_runs
from huggingface_hub import constants
from s3_server import s3, s3_server

from jaxdp.checkpoint import remote_copy
from jaxdp.checkpoint.remote_copy import read_directory
from jaxdp.cli.main import main
from jaxdp.inspection.compare_checkpoints import _read_changes
from jaxdp.inspection.describe import describe
from jaxdp.inspection.fingerprint import fingerprint
from jaxdp.interop import remote_source
from jaxdp.safetensors_file import write_file
from jaxdp.storage.cloud_store import open_store
from jaxdp.storage.location import remote_location

__all__ = ["s3", "s3_server"]
compilation_cache, config_file, trained = tiny_runs.compilation_cache, tiny_runs.config_file, tiny_runs.trained

ARRAYS = {f"h.{layer}.w": np.arange(20000, dtype=np.float32) + layer for layer in range(4)}


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves a folder, and counts the bytes of answers."""

    root: Path
    has_ranges = True
    sent = 0
    moved: Mapping[str, str] = {}
    """Beginning of a path -> that of the place that it is redirected to."""

    def do_GET(self):
        for old, new in self.moved.items():
            if self.path.startswith(old):
                self.send_response(302)
                self.send_header("Location", self.path.replace(old, new))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, total = path.read_bytes(), path.stat().st_size
        if self.has_ranges and "Range" in self.headers:  # TensorStore reads whole files of a few bytes
            start, stop = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            content = content[start : stop + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        type(self).sent += len(content)
        self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    class Own(Ranges):
        root = tmp_path

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield Own, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "other"}')
    names = {}
    for shard in (1, 2):
        file = f"model-0000{shard}-of-00002.safetensors"
        own = dict(list(ARRAYS.items())[shard - 1 :: 2])
        write_file(tmp_path / "model" / file, own)
        names |= dict.fromkeys(own, file)
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return tmp_path / "model"


def test_a_folder_by_url(server, folder, monkeypatch, capsys):
    monkeypatch.setattr(remote_source, "HEAD_BYTES", 1024)
    monkeypatch.setattr(remote_source, "PIECE_BYTES", 30_000)
    handler, url = server
    found = describe(f"{url}/model/")
    assert found["params"] == describe(str(folder))["params"] and found["config"] == {"model_type": "other"}
    assert found["path"] == f"{url}/model/" and found["kind"] == "remote Hugging Face folder"
    assert handler.sent < 8192  # of 320,000 bytes of arrays
    assert fingerprint(f"{url}/model")["fingerprint"] == fingerprint(str(folder))["fingerprint"]
    assert main(["inspect", f"{url}/model"]) == 0
    assert "  h.{0..3}.w  [20000]  float32  x 4" in capsys.readouterr().out


@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_an_orbax_item_by_url(server, tmp_path, use_ocdbt):
    handler, url = server
    tree = {
        "params": {"w": np.arange(2**18, dtype=np.float32).reshape(512, 512), "b": np.ones(3, np.int8)},
        "step": np.int32(7),
    }
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt)) as writer:
        writer.save(tmp_path / "saved", args=ocp.args.PyTreeSave(tree))
    found = describe(f"{url}/saved")
    assert found["kind"] == "remote Orbax directory" and found["path"] == f"{url}/saved"
    assert found["params"] == describe(str(tmp_path / "saved"))["params"]
    assert handler.sent < 2**18  # of a mebibyte of arrays
    assert fingerprint(f"{url}/saved")["fingerprint"] == fingerprint(str(tmp_path / "saved"))["fingerprint"]


def test_a_checkpoint_by_url(server, trained, tmp_path):
    _, url = server
    (tmp_path / "run").symlink_to(trained)
    found = describe(f"{url}/run/checkpoints/6")
    assert {each["path"].removeprefix("params/") for each in found["params"] if each["path"].startswith("params/")} == {
        each["path"] for each in describe(str(trained))["params"]
    }


def test_a_model_of_the_hub_by_ranges(server, folder, tmp_path, monkeypatch, capsys):
    """A server with the Hub's URLs, which answers with a redirect to another place as the Hub does for weights."""
    handler, url = server
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_source, "HEAD_BYTES", 1024)
    handler.moved = {"/owner/name/resolve/main/": "/model/"}
    found = describe("hf:owner/name")
    assert found["params"] == describe(str(folder))["params"] and found["path"] == f"{url}/owner/name/resolve/main"
    assert handler.sent < 8192  # of 320,000 bytes of arrays
    assert fingerprint("hf:owner/name")["fingerprint"] == fingerprint(str(folder))["fingerprint"]
    assert main(["inspect", "hf:owner/other"]) == 2
    assert "has neither model.safetensors nor" in capsys.readouterr().err


def test_a_header_longer_than_the_first_request(server, folder, monkeypatch):
    monkeypatch.setattr(remote_source, "HEAD_BYTES", 16)
    _, url = server
    file = f"{url}/model/model-00001-of-00002.safetensors"
    assert [each["path"] for each in describe(file)["params"]] == ["h.0.w", "h.2.w"]


def test_what_cannot_be_read_by_url(server, folder, monkeypatch, capsys):
    handler, url = server
    cases = [
        (f"{url}/nothing.safetensors", "does not exist"),
        (f"{url}/nothing", "has neither model.safetensors nor model.safetensors.index.json"),
        ("http://127.0.0.1:9/x.safetensors", "cannot be reached"),
        ("nosuchscheme://x/y.safetensors", "cannot be opened by fsspec"),
    ]
    for path, said in cases:
        assert main(["inspect", path]) == 2
        err = capsys.readouterr().err
        assert said in err and len(err.splitlines()) == 1
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert main(["inspect", f"{url}/model"]) == 2
    assert "lacks 1 of its 2 shards" in capsys.readouterr().err
    handler.has_ranges = False
    monkeypatch.setattr(remote_source, "HEAD_BYTES", 1024)
    assert main(["inspect", f"{url}/model/model-00001-of-00002.safetensors"]) == 2
    assert "does not support range requests" in capsys.readouterr().err


def test_runs_in_object_storage_name_their_package(monkeypatch, capsys):
    def without_packages(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote_copy.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("fsspec.core.url_to_fs", without_packages)
    assert main(["inspect", "s3://bucket/run"]) == 2
    err = capsys.readouterr().err
    assert "Install s3fs" in err and "A run in object storage needs `pip install 'jaxdp[storage]'`." in err
    assert main(["inspect", "s3://"]) == 2
    assert "PATH=s3:// names no bucket; expected s3://BUCKET/NAME" in capsys.readouterr().err


def test_a_url_without_a_run_is_not_told_to_install_what_is_there(s3, monkeypatch, capsys):
    def without_packages(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", without_packages)
    assert main(["inspect", "s3://bucket/nothing"]) == 2
    err = capsys.readouterr().err
    assert "No run is there; check the URL." in err and "jaxdp[storage]" not in err


def test_a_run_in_object_storage_is_named_by_its_url(s3, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = "s3://bucket/inspected"
    store = open_store(remote_location(url, "PATH"), "PATH")
    for path in filter(Path.is_file, trained.rglob("*")):
        store.put(path.relative_to(trained).as_posix(), path)
    newest = f"{url}/checkpoints/6"
    problems: list[str] = []
    pair = (trained / "checkpoints" / "6", read_directory(url).checkpoints / "6")  # its files are not there yet
    assert not any(change["max"] for change in _read_changes(pair, None, problems)) and not problems
    for options in ([], ["--stats"], ["--verify", "--step=6"], ["--fingerprint"]):
        assert main(["inspect", url, *options]) == 0
        said = capsys.readouterr()
        assert newest in said.out and str(tmp_path) not in said.out + said.err, options
    for options in (["--verify"], ["--stats"], []):
        assert main(["inspect", url, "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["path"] == (newest if options == [] else url)
    for options in (["--step=5"], ["--stats", "--step=5"]):
        assert main(["inspect", url, *options]) == 2
        assert f"--step=5: {url}/checkpoints has no such checkpoint" in capsys.readouterr().err
    assert main(["compare", str(trained), url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_equal"] and found["second"] == url and found["checkpoints"]["last_equal_step"] == 6


def test_a_run_without_a_checkpoint_in_object_storage_is_named_by_its_url(s3, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = "s3://bucket/unsaved"
    store = open_store(remote_location(url, "PATH"), "PATH")
    for name in ("config.json", "provenance.json", "metrics.jsonl"):
        store.put(name, trained / name)
    assert main(["inspect", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == url
    assert main(["inspect", url, "--verify"]) == 2
    assert f"PATH={url} is a run that has no checkpoint yet" in capsys.readouterr().err


def test_a_file_of_another_file_system(folder):
    system = fsspec.filesystem("memory")
    for path in folder.iterdir():
        system.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    assert describe("memory://bucket")["params"] == describe(str(folder))["params"]
    assert fingerprint("memory://bucket")["fingerprint"] == fingerprint(str(folder))["fingerprint"]
