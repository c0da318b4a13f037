"""Ablation script: its variants are configurations, and its table compares by Welch's t-test."""

import ablation
import pytest

from jaxdp.config import parse_config


@pytest.mark.parametrize(
    ("name", "corpus"), [*((name, "shakespeare") for name in ablation.VARIANTS), ("winners", "stdlib")]
)
def test_every_variant_is_a_configuration(name, corpus):
    parse_config(ablation.configuration(name, corpus, "text.txt", steps=100, seed=3))


def test_a_variant_has_the_keys_of_those_that_it_changes():
    config = ablation.configuration("two layers", "shakespeare", "text.txt", steps=100, seed=3)
    assert (config.model.num_layers, config.model.qk_norm, config.optim.warmup_steps) == (2, True, 20)
    assert (config.optim.name, config.seed, config.total_steps) == ("normuon", 3, 100)


@pytest.mark.slow
def test_phases_of_the_same_keys_are_one_run(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a line of a text that repeats itself, and again.\n" * 200, encoding="utf-8")
    config = ablation.configuration("winners", "shakespeare", str(text), steps=4, seed=3)
    config.update_from_flattened_dict({"model.num_layers": 1, "model.embed_dim": 64, "data.cache_dir": str(tmp_path)})
    whole = ablation.train(config)
    assert ablation.train(config, ((0.5, {}), (0.5, {}))) == whole
    assert ablation.train(config, ((0.5, {"global_batch_size": 6}), (0.5, {"data.length": 32}))) != whole


def test_the_table_compares_runs_of_one_corpus_and_length():
    """Means 2 and 3 with variances 1 and 4 of three runs each: t = 1 / sqrt(5 / 3)."""
    runs = [
        {"variant": name, "corpus": corpus, "steps": steps, "seed": seed, "loss": loss}
        for name, corpus, steps, losses in (
            ("normuon", "shakespeare", 50, (1.0, 2.0, 3.0)),
            ("ema", "shakespeare", 50, (1.0, 3.0, 5.0)),
            ("ema", "stdlib", 50, (9.0,)),
            ("ema", "shakespeare", 60, (9.0,)),
            ("adamw_double", "shakespeare", 100, (4.0,)),
        )
        for seed, loss in enumerate(losses)
    ]
    assert ablation.table(runs, "shakespeare", 50).splitlines()[2:] == [
        "| adamw_double | adamw | 100 | 1 | 4.0000 |  |  |  |",
        "| normuon | adamw_double | 50 | 3 | 2.0000 ± 1.0000 |  |  |  |",
        "| ema | normuon | 50 | 3 | 3.0000 ± 2.0000 | +1.0000 | 0.8 | 0.5 |",
    ]
