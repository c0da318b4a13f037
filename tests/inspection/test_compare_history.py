"""Comparison of resumed runs whose configuration has changed, and of the norms of runs."""

import json
import math

import pytest
from written_runs import losses, parameters, start, write_run

from jaxdp.checkpoint.config_history import config_in_force
from jaxdp.config import default_values
from jaxdp.inspection import compare_runs
from jaxdp.inspection.compare_text import as_lines
from jaxdp.workdir import WorkDir

BUCKETS = "parallel.bucket_mb"


def keep(run, step, **changes):
    """Writes the configuration that was in force up to a step."""
    config = default_values()
    for key, value in changes.items():
        config["parallel"][key] = value
    (run / f"config.{step}.json").write_text(json.dumps(config))


def differing(steps, since):
    """Lines whose loss differs by rounding from a step on."""
    lines = losses(steps)
    for line in lines:
        line["train/loss"] *= 1 + 1e-7 * (line["step"] >= since)
    return lines


def starts(*steps):
    return [start(step) for step in steps]


@pytest.mark.parametrize(
    ("first_steps", "kept", "expected"),
    [
        ([0, 10, 20], (10, 20), {1: 10, 10: 10, 11: 20, 20: 20, 21: None, 99: None}),
        ([0, 10, 20], (20,), {5: 20, 15: 20, 20: 20, 21: None}),  # the second start changed nothing
        ([0, 50, 30], (50, 30), {30: 30, 31: None, 40: None, 60: None}),  # the second start is lost
        ([0, 50, 30, 40], (50, 30, 40), {30: 30, 31: 40, 40: 40, 41: None}),
        ([0, 50, 50], (50,), {50: 50, 51: None}),
        ([0, 0], (0,), {1: None}),
        (None, (10, 20), {10: 10, 11: 20, 21: None}),
    ],
)
def test_the_configuration_of_each_update(tmp_path, first_steps, kept, expected):
    """`expected` has the STEP of config.STEP.json for each update; None: it is that of config.json."""
    run = write_run(tmp_path / "run", starts=None if first_steps is None else starts(*first_steps))
    for name in ("config.damaged.json", "config.5.json.tmp", "config.007.json"):
        (run / name).write_text("")
    for step in kept:
        keep(run, step)
    for step, at in expected.items():
        assert config_in_force(WorkDir(run), step) == ("config.json" if at is None else f"config.{at}.json"), step


def test_a_key_that_changed_with_a_restart_counts_where_it_was_in_force(tmp_path):
    """The second run trained with other buckets up to step 6, and the loss differs from step 4 on; so it does today."""
    first = write_run(tmp_path / "a", losses(range(1, 11)), starts=starts(0), changes={"log.samples": 9})
    second = write_run(tmp_path / "b", differing(range(1, 11), since=4), starts=starts(0, 6))
    keep(second, 6, bucket_mb=1)
    usual = default_values()
    found = compare_runs(first, second)
    assert found["step"] == 4
    assert [BUCKETS, usual["parallel"]["bucket_mb"], 1] in found["config"]
    assert [cause["name"] for cause in found["causes"]] == [BUCKETS] and found["later_config"] == []
    assert as_lines(found)[2].startswith("config at step 4")


def test_a_key_that_changed_after_the_difference_explains_nothing(tmp_path):
    first = write_run(tmp_path / "a", losses(range(1, 11)), starts=starts(0))
    second = write_run(
        tmp_path / "b", differing(range(1, 11), since=4), starts=starts(0, 6), changes={BUCKETS: 1, "total_steps": 20}
    )
    keep(second, 6)
    found = compare_runs(first, second)
    assert found["config"] == [] and found["causes"] == []
    assert [key for key, *_ in found["later_config"]] == ["total_steps", BUCKETS]
    assert "config of later starts" in as_lines(found)[2]
    assert "Nothing that was compared explains it" in found["verdict"]


def test_a_key_that_differed_between_two_logged_steps_counts(tmp_path):
    """The runs log every ten steps; the second one had other buckets from step 12 to 15."""
    lines = range(10, 41, 10)
    first = write_run(tmp_path / "a", losses(lines), starts=starts(0))
    second = write_run(tmp_path / "b", differing(lines, since=20), starts=starts(0, 12, 15))
    keep(second, 12)
    keep(second, 15, bucket_mb=1)
    found = compare_runs(first, second)
    assert [(row[0], row[2]) for row in found["config"]] == [(BUCKETS, 1)] and found["later_config"] == []
    assert [cause["name"] for cause in found["causes"]] == [BUCKETS]
    (tmp_path / "a" / "metrics.jsonl").write_text("")  # no difference: the newest configurations
    assert compare_runs(first, second)["config"] == []


# ---- Norms ------------------------------------------------------------------


def norms(steps, changed=()):
    """Lines of norms.jsonl; `changed` has (step, name) of norms that are one step of rounding larger."""
    lines = []
    for step in steps:
        line = {"step": step, "time": 1e9 + step}
        for kind in ("params", "grads", "updates"):
            for leaf in ("final_norm/scale", "layer_0/mlp/up/kernel", "layer_10/mlp/up/kernel", "token_embedding"):
                line[f"norms/{kind}/{leaf}"] = 0.5 + step
        for at, name in changed:
            if at == step:
                line[f"norms/{name}"] = math.nextafter(line[f"norms/{name}"], math.inf)
        lines.append(line)
    return lines


def write_norms(run, lines):
    (run / "norms.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return run


def test_the_first_norm_that_differs(tmp_path):
    changed = [
        (6, "grads/layer_10/mlp/up/kernel"), (6, "grads/layer_0/mlp/up/kernel"), (6, "updates/token_embedding"),
        (8, "params/token_embedding"),
    ]  # fmt: skip
    first = write_norms(write_run(tmp_path / "a", losses([10, 20]), starts=starts(0)), norms(range(2, 21, 2)))
    second = write_norms(
        write_run(tmp_path / "b", differing([10, 20], since=10), starts=starts(0)), norms(range(3, 21, 3), changed)
    )
    found = compare_runs(first, second)
    told = found["norms"]
    assert (told["common_steps"], told["first_common_step"], told["step"], told["last_equal_step"]) == (1, 6, 6, None)
    assert found["step"] == 6 and found["is_equal"] is False
    gradient, update = told["differences"]
    assert (gradient["kind"], gradient["leaf"]) == ("grads", "layer_0/mlp/up/kernel")
    assert (gradient["different"], gradient["compared"]) == (2, 4)
    assert gradient["second"] - gradient["first"] == math.nextafter(6.5, math.inf) - 6.5
    assert gradient["relative"] == pytest.approx(2**-52 * 4 / 6.5, rel=1e-6)
    assert (update["kind"], update["leaf"], update["different"]) == ("updates", "token_embedding", 1)
    sentence = "Norms differ first at step 6: that of the gradient layer_0/mlp/up/kernel (relative 1.4e-16), the first of 2 that differ."
    assert sentence in found["verdict"] and "the loss differs first at step 10" in found["verdict"]
    assert any(line.split()[:2] == ["grads/layer_0/mlp/up/kernel", "6"] for line in as_lines(found))


def test_norms_differ_where_nothing_else_does(tmp_path):
    """A parameter differs: the norm of step 4 is that before its update, so it follows the equal norms of step 2."""
    first = write_norms(write_run(tmp_path / "a", losses([1]), starts=starts(0)), norms([2, 4, 6]))
    second = write_norms(
        write_run(tmp_path / "b", losses([1]), starts=starts(0)), norms([2, 4, 6], [(4, "params/final_norm/scale")])
    )
    found = compare_runs(first, second)
    assert found["is_equal"] is False and found["norms"]["last_equal_step"] == 2
    assert found["verdict"] == (
        "The metrics are the same in 1 common step. Norms differ first at step 4 (those of step 2 are the same): that of the "
        "parameter final_norm/scale (relative 2e-16)."
    )


def test_equal_norms_are_counted(tmp_path):
    runs = [write_norms(write_run(tmp_path / name, losses([1]), starts=starts(0)), norms([2, 4])) for name in "ab"]
    found = compare_runs(*runs)
    assert found["is_equal"] is True
    assert found["verdict"] == (
        "No difference in 1 common step, 0 common evaluations, 2 common lines of norms and 0 common checkpoints."
    )
    (runs[1] / "norms.jsonl").unlink()
    assert compare_runs(*runs)["norms"] is None


def test_a_checkpoint_before_the_first_logged_difference_sets_the_step(tmp_path):
    after = parameters()
    after["token_embedding"] += 1
    first, second = (
        write_run(tmp_path / name, lines, starts=starts(0), checkpoints={4: arrays})
        for name, lines, arrays in (("a", losses([10]), parameters()), ("b", differing([10], since=10), after))
    )
    assert compare_runs(first, second)["step"] == 4
