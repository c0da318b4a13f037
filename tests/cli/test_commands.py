"""generate, plot and bench from the command line; eval, inspect and devices have tests of their own."""

import json

import pytest

from jaxdp.bench import step as benchmark
from jaxdp.cli.main import main

GENERATE = ["--prompt=the of", "--max_new_tokens=12", "--num_samples=3", "--seed=5", "--cpu_devices=8"]


def test_generate_prints_prompt_and_continuation(trained, capsys):
    assert main(["generate", f"--workdir={trained}", *GENERATE]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    samples = out.removesuffix("\n").split("\n" + "-" * 60 + "\n")
    assert len(samples) == 3 and all(sample.startswith("the of") for sample in samples)
    assert main(["generate", f"--workdir={trained}", *GENERATE, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.keys() for line in lines] == [{"prompt", "text", "tokens", "seed"}] * 3
    assert [line["seed"] for line in lines] == [5, 6, 7]
    assert [line["prompt"] + line["text"] for line in lines] == samples
    assert all(len(line["tokens"]) <= 12 for line in lines)


def test_generate_searches_for_the_best_continuations(trained, capsys):
    ask = ["generate", f"--workdir={trained}", "--prompt=the of", "--num_beams=4", "--json", "--cpu_devices=8"]
    assert main([*ask, "--num_samples=3"]) == 0
    best = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.keys() for line in best] == [{"prompt", "text", "tokens", "seed", "score"}] * 3
    scores = [line["score"] for line in best]
    assert scores == sorted(scores, reverse=True) and len({line["text"] for line in best}) == 3
    assert main(ask) == 0
    [alone] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert alone["text"] == best[0]["text"]


@pytest.mark.slow  # tests/decoding/test_beam.py
def test_one_beam_continues_as_greedy_does(trained, capsys):
    texts = []
    for how in ("--num_beams=1", "--temperature=0"):
        assert (
            main(["generate", f"--workdir={trained}", "--prompt=the of", "--max_new_tokens=8", "--cpu_devices=8", how])
            == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != "the of\n"


def test_plot_prints_the_path_of_the_picture(trained, tmp_path, capsys):
    out = tmp_path / "curve.png"
    assert main(["plot", str(trained), f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_draws_the_evaluation_of_a_classifier(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    (tmp_path / "config.json").write_text('{"task": "classification"}')
    assert main(["plot", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'plots' / 'training.png'}\n"
    assert f"`jaxdp eval --workdir={tmp_path}` makes evaluation.json" in err
    report = {"kind": "regression", "num_examples": 2, "pairs": [[0, 0], [1, 2]], "root_mean_squared_error": 0.7}
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    assert main(["plot", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines() == [
        str(tmp_path / "plots" / f"{name}.png") for name in ("training", "evaluation")
    ]
    assert (tmp_path / "plots" / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_plot_promises_no_pictures_to_other_tasks(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    for config in ('{"task": "seq2seq"}', "{"):
        (tmp_path / "config.json").write_text(config)
        assert main(["plot", str(tmp_path)]) == 0
        assert capsys.readouterr().err == ""


RESULT = {
    "devices": 8, "device_kind": "cpu", "steps": 20, "step_ms": 12.345, "step_ms_p10_p90": [11.0, 14.0],
    "tokens_per_sec": 123456.0, "dispatch_ms": 0.5, "data_wait": 0.001, "host_batch_ms": 0.2, "compile_secs": 3.21,
    "device_bytes": 3 * 2**20, "flops_per_step": 1e9, "save_block_ms": [30.0, 10.0], "save_total_ms": 100.0,
}  # fmt: skip


@pytest.fixture
def measured(monkeypatch):
    """What bench asks to be measured; nothing is."""
    asked = []

    def measure(config, steps):
        asked.append((config, steps))
        return RESULT

    def measure_device_counts(file, overrides, steps, counts):
        asked.append((file, list(overrides), steps, counts))
        return [RESULT | {"devices": count} for count in counts]

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(benchmark, "measure_device_counts", measure_device_counts)
    return asked


def test_bench_tells_what_it_measured(config_file, measured, capsys):
    assert main(["bench", f"--config={config_file}", "--steps=20", "--config.seed=3", "--cpu_devices=4"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    [(config, steps)] = measured
    assert (config.seed, config.parallel.cpu_devices, steps) == (3, 4, 20)
    assert "step        12.35 ms (10 % to 90 %: 11.00 to 14.00)" in out or "12.34 ms" in out
    assert "throughput  123,456 tokens/s" in out and "memory      3.0 MiB a device" in out


def test_bench_compares_device_counts(config_file, measured, capsys):
    arguments = ["bench", f"--config={config_file}", "--steps=10", "--devices=1,2,4", "--config.seed=3", "--json"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["devices"] for line in lines] == [1, 2, 4]
    assert measured == [(str(config_file), ["--config.seed=3"], 10, [1, 2, 4])]


def test_bench_tells_what_the_checks_cost(config_file, monkeypatch, capsys):
    times = {"step_ms": 250.0, "every_step_ms": 0.5, "consistency_ms": 12.0, "share": 0.0025}
    result = {"devices": 8, "device_kind": "cpu", "rounds": 5, "check_every_steps": 100, **times, "cpu": times}
    asked = []
    monkeypatch.setattr(benchmark, "measure_checks", lambda config, steps: asked.append((config.seed, steps)) or result)
    command = ["bench", f"--config={config_file}", "--checks", "--steps=20", "--config.seed=3"]
    assert main(command) == 0
    assert asked == [(3, 20)]
    assert capsys.readouterr().out.splitlines() == [
        "devices     8 x cpu",
        "step        250.00 ms, processor time 250.00 ms, without checks; median of 5 rounds",
        "every step  0.50 ms, processor time 0.50 ms more: skipping of bad updates, watchdog",
        "comparison  12.00 ms, processor time 12.00 ms a comparison of the replicas, every 100 steps",
        "total       0.25% of a step, processor time 0.25%",
    ]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result


def test_plot_writes_a_page_of_runs(trained, tmp_path, capsys):
    out = tmp_path / "curves.png"
    assert main(["plot", str(trained), f"--out={out}", "--html"]) == 0
    assert capsys.readouterr().out == f"{out}\n{tmp_path / 'curves.html'}\n"
    page = (tmp_path / "curves.html").read_text()
    assert "eval/loss" in page and "data.length" in page and page.count("data:image/png;base64,") == 1
