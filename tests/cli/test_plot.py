"""`jaxdp plot`: axes, formats, comparisons and wrong input."""

import json

import pytest

from jaxdp import defaults
from jaxdp.cli.main import main


def make(directory, metrics=("train/loss",), devices=1, **config):
    directory.mkdir(parents=True)
    rows = [{"step": step, "time": 1e9 + step, **dict.fromkeys(metrics, 1.0 / step)} for step in (1, 2, 3)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = json.loads(defaults.get_config().to_json()) | config
    (directory / "config.json").write_text(json.dumps(whole))
    (directory / "provenance.json").write_text(json.dumps([{"devices": {"count": devices}}]))
    return str(directory)


def test_a_comparison_leaves_the_pictures_of_the_runs(tmp_path, capsys):
    runs = [make(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    assert main(["plot", runs[0]]) == 0
    before = (tmp_path / "a" / "plots" / "training.png").read_bytes()
    capsys.readouterr()
    assert main(["plot", *runs]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a/plots/comparison.png\n"
    for name in ("training.png", "training.svg"):
        assert main(["plot", *runs, f"--out={tmp_path}/b/plots/{name}"]) == 2
        assert "which a comparison must not replace" in capsys.readouterr().err
    assert (tmp_path / "a" / "plots" / "training.png").read_bytes() == before
    assert not (tmp_path / "b" / "plots").exists()


def test_vector_graphics_are_equal_files_and_part_of_the_page(tmp_path, capsys):
    run = make(tmp_path / "run")
    contents = []
    for _ in range(2):
        assert main(["plot", run, f"--out={tmp_path}/curve.svg", "--by=tokens", "--html"]) == 0
        contents.append((tmp_path / "curve.svg").read_text())
    assert contents[0].startswith("<?xml") and "dc:date" not in contents[0] and contents[0] == contents[1]
    assert "data:image/svg+xml;base64," in (tmp_path / "curve.html").read_text()


def test_device_counts_and_norms_have_pictures_of_their_own(tmp_path, capsys):
    metrics = ("train/loss", "perf/step_secs", "norms/layer_0/kernel", "norms/layer_1/kernel")
    runs = [make(tmp_path / f"run{count}", metrics, count, parallel={"cpu_devices": count}) for count in (1, 2)]
    assert main(["plot", *runs, f"--out={tmp_path}/curve.png", "--norms"]) == 0
    names = ("curve", "curve_scaling", "curve_norms_1", "curve_norms_2")
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/{name}.png" for name in names]
    assert main(["plot", make(tmp_path / "bare"), *runs, f"--out={tmp_path}/again.png", "--norms"]) == 0
    out, err = capsys.readouterr()
    assert f"no plot of norms: {tmp_path}/bare was trained without log.norms_every_steps" in err
    assert [line for line in out.splitlines() if "_norms_" in line.removeprefix(str(tmp_path))] == [
        f"{tmp_path}/again_norms_{n}.png" for n in (2, 3)
    ]
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)


WRONG = {
    "no run": (["empty"], "There is no metrics file"),
    "no numbers": (["bare"], "has nothing to plot"),
    "different tasks": (["run", "other"], "Runs of different tasks have no metric in common"),
    "unknown axis": (["run", "--by=epochs"], "--by: invalid choice: 'epochs'"),
    "unknown format": (["run", "--out=x.gif"], "--out=x.gif must end in .png or .svg"),
    "no parameters": (["run", "--by=flops"], "has no whole checkpoint"),
    "no norms": (["run", "--norms"], "run has no norms of parameters (norms.jsonl)"),
}
"""Case -> (arguments, part of the sentence)."""


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "run")
    make(tmp_path / "other", task="classification")
    make(tmp_path / "bare", metrics=())
    (tmp_path / "empty").mkdir()
    arguments, sentence = WRONG[case]
    assert main(["plot", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("*.png"))
