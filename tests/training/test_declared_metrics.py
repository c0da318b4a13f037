"""`eval.metric` follows the declarations of the task: a run with a metric of the user's own."""

import json

import pytest
from tiny_runs import assert_refused, contents, metrics_lines, train

from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.cli.main import main
from jaxdp.inspection.describe import describe
from jaxdp.tasks import CausalLM, MetricSpec, register_task
from jaxdp.tasks import task as registry


class WordErrors(CausalLM):
    """A language model whose accuracy is reported as an error rate; its name has no word that tells the direction."""

    metrics = (MetricSpec("wer", "errors", False, "share of wrong predictions"), MetricSpec("entropy"))

    def __init__(self, inputs):
        super().__init__(inputs)
        self.metrics = type(self).metrics

    def loss(self, apply, params, batch, row_keys, train):
        sums = super().loss(apply, params, batch, row_keys, train)
        if train:
            return sums
        return sums._replace(metrics={"wer": (sums.loss, sums.weight), "entropy": (sums.loss, sums.weight)})

    def derived_metrics(self, means):
        return {}


@pytest.fixture
def word_errors(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    register_task("word_errors", WordErrors)
    return "--config.task=word_errors"


OPTIONS = (
    "--config.eval.metric=eval/wer", "--config.eval.every_steps=1", "--config.checkpoint.every_steps=2",
    "--config.checkpoint.keep_latest=1", "--config.optim.max_skipped_in_a_row=1",
)  # fmt: skip


def test_the_best_checkpoint_is_that_of_the_declared_direction(word_errors, config_file, tmp_path, capsys, monkeypatch):
    assert train(config_file, tmp_path, word_errors, *OPTIONS, "--config.optim.learning_rate=0.01") == 0
    rates = {line["step"]: line["eval/wer"] for line in metrics_lines(tmp_path, "eval/wer")}
    best = min(rates, key=rates.get)
    assert best == 6 and rates[6] < rates[1]
    # The opposite direction would have kept 1; 4 and 5 are those of a rollback.
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {4, 5, 6}
    assert read_manifest(tmp_path / "checkpoints" / "6").metric_specs == {
        "eval/loss": {"unit": "nats", "higher_is_better": False}, "eval/wer": {"unit": "errors", "higher_is_better": False},
    }  # fmt: skip
    # Commands that do not know the task follow what the checkpoints record.
    capsys.readouterr()
    assert main(["eval", f"--workdir={tmp_path}", "--step=best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == best
    registry._FACTORIES.pop("word_errors")
    assert describe(str(tmp_path), "best")["step"] == best
    assert main(["inspect", str(tmp_path)]) == 0 and main(["plot", str(tmp_path)]) == 0


@pytest.mark.slow  # the direction: above; patience: tests/hooks/test_early_stopping.py
def test_a_run_stops_where_the_declared_metric_no_longer_falls(word_errors, config_file, tmp_path, capsys):
    options = (*OPTIONS, "--config.eval.patience=2", "--config.total_steps=40", "--config.optim.learning_rate=1e-12")
    assert train(config_file, tmp_path, word_errors, *options) == 0
    assert "stopped early: the last 2 evaluations did not improve on eval/wer" in capsys.readouterr().err
    assert train(config_file, tmp_path, word_errors, *options) == 0
    assert "has stopped early" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "why"),
    [("eval/cer", "is not a metric of task=word_errors"), ("eval/entropy", "has no direction (higher_is_better)")],
)
def test_a_metric_that_is_not_declared_is_refused(metric, why, word_errors, config_file, tmp_path, capsys):
    assert train(config_file, tmp_path, word_errors, f"--config.eval.metric={metric}") == 2
    assert f"eval.metric={metric!r} {why}; choose one of: eval/loss, eval/wer." in assert_refused(capsys)
    assert contents(tmp_path) == {}


def test_a_metric_that_is_declared_but_not_measured_is_refused(word_errors, config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(WordErrors, "metrics", (*WordErrors.metrics, MetricSpec("cer", "", False)))
    assert train(config_file, tmp_path, word_errors, "--config.eval.metric=eval/cer") == 2
    assert "eval.metric='eval/cer' is declared by task=word_errors, which does not measure it" in assert_refused(capsys)


def test_a_declaration_that_is_none(word_errors, config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(WordErrors, "metrics", ("wer",))
    assert train(config_file, tmp_path, word_errors, "--config.eval.metric=eval/wer") == 2
    assert "declares the metric 'wer'; expected a jaxdp.tasks.MetricSpec" in assert_refused(capsys)
