"""The page of runs: what stands in it, and that it needs nothing else."""

import json
import re

import pytest
from tiny_runs import compilation_cache, config_file, trained

from jaxdp import defaults
from jaxdp.cli.main import main
from jaxdp.errors import UserError
from jaxdp.report.html import write_report

__all__ = ["compilation_cache", "config_file", "trained"]

PNG = b"\x89PNG\r\n\x1a\n"


def write_run(directory, config=(), **files):
    directory.mkdir()
    rows = [{"step": 5, "time": 1.0, "train/loss": 2.0, "eval/bleu": 1.0}, {"step": 10, "train/loss": None}]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = json.loads(defaults.get_config().to_json())
    whole["data"] |= config
    (directory / "config.json").write_text(json.dumps(whole))
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


def cells(page):
    """{first cell of a row: the others}, as text."""
    rows = re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", page)
    return {name: re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", rest) for name, rest in rows}


def test_the_last_values_and_what_differs_from_the_defaults(tmp_path):
    run = write_run(tmp_path / "<run>", {"length": 12345, "path": "a & b"})
    page = write_report([run], [], tmp_path / "new" / "page.html").read_text()
    found = cells(page)
    assert found[""] == ["&lt;run&gt;"]
    assert (
        found["step"] == ["10"] and found["eval/bleu"] == ["1"] and found["train/loss"] == [""] and "time" not in found
    )
    assert found["data.length"] == ["12,345"] and found["data.path"] == ["a &amp; b"]
    assert "data.shuffle" not in found and "<run>" not in page


def test_metrics_have_the_units_of_their_declarations(tmp_path):
    run = write_run(tmp_path / "run")
    found = cells(write_report([run], [], tmp_path / "page.html", {"train/loss": "nats"}.get).read_text())
    assert {"train/loss (nats)", "eval/bleu", "step"} <= found.keys()


def test_plot_takes_units_from_the_table_of_training_metrics_and_from_checkpoints(trained):
    assert main(["plot", str(trained), "--html"]) == 0
    found = cells((trained / "plots" / "training.html").read_text())
    assert {"train/loss (nats)", "eval/loss (nats)", "perf/tokens_per_sec (tokens/s)", "eval/accuracy"} <= found.keys()


def test_runs_are_told_apart_by_what_differs_between_them(tmp_path):
    runs = [write_run(tmp_path / f"run{length}", {"length": length, "shuffle": False}) for length in (7, 8)]
    found = cells(write_report(runs, [], tmp_path / "page.html").read_text())
    assert found[""] == ["run7", "run8"] and found["data.length"] == ["7", "8"]
    assert "data.shuffle" not in found


def test_pictures_and_samples_are_in_the_page(tmp_path):
    (tmp_path / "curve.png").write_bytes(PNG)
    samples = [{"source": "a < b", "reference": "c", "output": "d"}]
    run = write_run(tmp_path / "run", evaluation={"samples": samples})
    page = write_report([run], [tmp_path / "curve.png"], tmp_path / "page.html").read_text()
    assert 'alt="curve" src="data:image/png;base64,iVBORw0KGgo="' in page
    assert cells(page)["source"] == ["<pre>a &lt; b</pre>"]
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_run_without_metrics_is_refused_and_one_without_configuration_is_not(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "config.json").write_text("{")
    assert "train/loss" in write_report([run], [], tmp_path / "page.html").read_text()
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no metrics file"):
        write_report([run], [], tmp_path / "other.html")
