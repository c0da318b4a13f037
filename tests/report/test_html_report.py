"""The page of runs: what stands in it, and that it needs nothing else."""

import json
import re
import shutil

import pytest
from tiny_runs import compilation_cache, config_file, metrics_lines, trained

from jaxdp import defaults
from jaxdp.checkpoint.listing import list_checkpoints
from jaxdp.checkpoint.retention import Retention
from jaxdp.cli.main import main
from jaxdp.cli.plot_facts import facts_of
from jaxdp.errors import UserError
from jaxdp.report.html import RunFacts, write_report
from jaxdp.report.terminal import memory_size
from jaxdp.workdir import WorkDir

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
    assert '<div><img alt="curve" src="data:image/png;base64,iVBORw0KGgo="></div>' in page  # a div scrolls in itself
    assert cells(page)["source"] == ["<pre>a &lt; b</pre>"]
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_warnings_goodput_and_checkpoints_of_the_runs(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    given = [
        RunFacts(
            [{"step": 5, "saved": "noon", "size": "1.5 MiB", "eval/loss": 1.25}],
            ["<b> is odd."],
            {"steps": 0.75, "restore": 0.25},
        ),
        RunFacts(),
    ]
    page = write_report(
        runs, [], tmp_path / "page.html", facts=lambda number, last: given[number] if last["step"] == 10 else None
    ).read_text()
    assert "<summary>Warnings of a</summary><ul><li>&lt;b&gt; is odd.</li></ul>" in page and "Warnings of b" not in page
    assert cells(page)["steps"] == ["75.0%", ""] and "<h2>Goodput</h2>" in page
    assert (
        '<tr><th></th><th class="number">a</th><th>b</th></tr><tr><th>steps</th><td class="number">75.0%</td>' in page
    )
    assert "<h2>Checkpoints of a</h2>" in page and "Checkpoints of b" not in page
    size = '<th class="number">size</th>'
    assert f'<tr><th class="number">step</th><th>saved</th>{size}<th class="number">eval/loss</th></tr>' in page
    assert (
        '<tr><td class="number">5</td><td>noon</td><td class="number">1.5 MiB</td><td class="number">1.25</td></tr>'
        in page
    )
    assert "Goodput" not in write_report(runs, [], tmp_path / "page.html").read_text()


def test_facts_of_a_run_from_its_files(trained, tmp_path):
    run = WorkDir(tmp_path / "run")
    shutil.copytree(trained, run.root)
    provenance = json.loads(run.provenance.read_text())
    run.provenance.write_text(json.dumps([*provenance, {"first_step": 3}]))
    with open(run.log(0), "a") as log:
        log.write(
            "noon wandb cannot be reached (https://ann:pw@host/)\nnoon \x1b[2Jrolling back to step 3\nnoon step 3\n"
        )
    facts = facts_of(run, {"step": 6, "train/skipped": 2, "perf/data_wait": 0.25}, 9)
    assert facts.warnings == [
        "The last metrics are of step 6 of 9.",
        "2 updates were skipped, because their loss or gradient was not finite or a spike.",
        "25% of the time of the last steps was spent waiting for data.",
        "The run was started 2 times, from steps 0, 3.",
        "process_0: noon wandb cannot be reached (https://ann:***@host/)",
        "process_0: noon \\x1b[2Jrolling back to step 3",
    ]
    assert sum(facts.goodput.values()) == pytest.approx(1) and "training steps that count" in facts.goodput
    assert [row["step"] for row in facts.checkpoints] == [3, 6]
    size = sum(
        file.stat().st_size
        for file in (run.checkpoints / "6").rglob("*")
        if file.is_file() and file.name != "manifest.json"
    )
    assert facts.checkpoints[1]["size"] == memory_size(size)
    listed = list_checkpoints(run.checkpoints, Retention(keep_latest=2, keep_best=0), verify=False)
    assert [entry["bytes"] for entry in listed if entry["step"] == 6] == [size], "as in jaxdp inspect"
    assert facts.checkpoints[1]["eval/loss"] == metrics_lines(trained, "eval/loss")[-1]["eval/loss"]
    (run.checkpoints / "6" / "manifest.json").write_text("{")
    assert facts_of(run, {}, None).checkpoints[1:] in (
        [],
        [{"step": 6, "saved": "damaged: see jaxdp inspect --verify"}],
    )


def test_a_run_without_metrics_is_refused_and_one_without_configuration_is_not(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "config.json").write_text("{")
    assert "train/loss" in write_report([run], [], tmp_path / "page.html").read_text()
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no metrics file"):
        write_report([run], [], tmp_path / "other.html")
