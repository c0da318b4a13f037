"""Retention rules, deletion, and selection of a checkpoint by name."""

import dataclasses
import math
import shutil

import pytest

from jaxdp.checkpoint import integrity
from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import Manifest, committed_steps, find_damage, read_manifest, write_manifest
from jaxdp.checkpoint.metric_records import recorded_metric
from jaxdp.checkpoint.retention import (
    BestSoFar,
    Retention,
    apply_retention,
    choose_step,
    delete_checkpoint,
    ranked,
    remove_leftovers,
)
from jaxdp.errors import UserError
from jaxdp.metrics import MetricSpec

LOSSES = {1: 5.0, 2: 1.0, 3: 3.0, 4: 2.0, 5: 4.0, 6: 6.0}


def commit(checkpoints, step, metrics):
    (checkpoints / str(step)).mkdir(parents=True)
    write_manifest(checkpoints / str(step), Manifest(step, 0.0, metrics, [], {}))


@pytest.fixture
def checkpoints(tmp_path):
    for step, loss in LOSSES.items():
        commit(tmp_path, step, {"eval/loss": loss, "eval/accuracy": loss})
    return tmp_path


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, {2, 5, 6}),
        ({"keep_latest": 1, "keep_best": 0}, {6}),
        ({"keep_latest": 1, "keep_best": 1}, {2, 6}),
        ({"keep_latest": 1, "keep_best": 3}, {2, 3, 4, 6}),
        ({"keep_latest": 3, "keep_best": 0}, {4, 5, 6}),
        ({"keep_latest": 99, "keep_best": 0}, {1, 2, 3, 4, 5, 6}),
        ({"keep_latest": 1, "keep_best": 99}, {1, 2, 3, 4, 5, 6}),
        ({"keep_latest": 1, "keep_best": 0, "keep_every_steps": 3}, {3, 6}),
        ({"keep_latest": 1, "keep_best": 1, "keep_every_steps": 5}, {2, 5, 6}),
        ({"keep_latest": 1, "keep_best": 0, "keep_back_steps": 1}, {5, 6}),
        ({"keep_latest": 1, "keep_best": 0, "keep_back_steps": 3}, {3, 4, 6}),
        ({"keep_latest": 1, "keep_best": 0, "keep_back_steps": 6}, {1, 6}),
        ({"keep_latest": 1, "keep_best": 2, "metric": "eval/accuracy", "higher_is_better": True}, {1, 6}),
        ({"keep_latest": 1, "keep_best": 2, "metric": "eval/unknown"}, {6}),
    ],
)
def test_exactly_the_right_checkpoints_stay(checkpoints, rules, kept):
    apply_retention(checkpoints, Retention(**rules))
    assert set(committed_steps(checkpoints)) == kept
    assert {path.name for path in checkpoints.iterdir()} == set(map(str, kept))


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7])
def test_there_is_always_one_to_go_back_to(tmp_path, every):
    """At least 5 steps behind, less than 10 and an interval, and at most two checkpoints more."""
    for step in range(every, 60, every):
        commit(tmp_path, step, {})
        apply_retention(tmp_path, Retention(keep_latest=1, keep_back_steps=5))
        steps = committed_steps(tmp_path)
        assert len(steps) <= 3
        if step > 10:
            assert any(5 <= step - other < 10 + every for other in steps)


@pytest.mark.parametrize("metric", ["eval/loss", "eval/accuracy", "eval/mean_absolute_error"])
@pytest.mark.parametrize("losses", [(1, 2, 9, 10), (10, 9, 2, 1), (3, 3, 3, 3)])
def test_the_latest_is_never_deleted_for_a_better_one(tmp_path, losses, metric):
    for step, loss in enumerate(losses, 1):
        commit(tmp_path, step, {metric: float(loss)})
        rules = Retention(keep_latest=1, keep_best=1, metric=metric, higher_is_better=metric == "eval/accuracy")
        apply_retention(tmp_path, rules)
        assert step in committed_steps(tmp_path)
        assert len(committed_steps(tmp_path)) <= 2


def test_checkpoints_without_the_metric_are_kept_by_no_other_rule_than_age(tmp_path):
    for step, metrics in enumerate([{}, {"eval/loss": None}, {"eval/loss": 2.0}, {}], 1):
        commit(tmp_path, step, metrics)
    apply_retention(tmp_path, Retention(keep_latest=1, keep_best=2))
    assert committed_steps(tmp_path) == [3, 4]


def test_best_is_the_highest_or_the_lowest():
    """Whatever words are in the name."""
    values = {1: {"eval/loss": 0.5}, 2: {"eval/loss": 0.8}, 3: {"eval/loss": 0.2}}
    assert ranked(values, "eval/loss", higher_is_better=True) == [2, 1, 3]
    assert ranked(values, "eval/loss", higher_is_better=False) == [3, 1, 2]


def test_best_follows_the_newest_declaration_and_else_the_rule_of_the_name(tmp_path):
    specs = {
        1: {},
        2: {"eval/wer": {"unit": "", "higher_is_better": True}},
        3: {"eval/wer": {"unit": "%", "higher_is_better": False}},
    }
    for step, declared in specs.items():
        commit(tmp_path, step, {"eval/wer": float(step), "eval/bleu": float(step), "eval/my_loss": float(step)})
        manifest = read_manifest(tmp_path / str(step))
        write_manifest(tmp_path / str(step), dataclasses.replace(manifest, metric_specs=declared))
    assert choose_step(tmp_path, "best", "eval/wer") == 1
    assert recorded_metric(tmp_path, "eval/wer") == MetricSpec("wer", "%", False)
    delete_checkpoint(tmp_path / "3")
    assert choose_step(tmp_path, "best", "eval/wer") == 2
    assert choose_step(tmp_path, "best", "eval/bleu") == 2
    assert choose_step(tmp_path, "best", "eval/my_loss") == 1
    assert recorded_metric(tmp_path / "missing", "eval/my_loss") == MetricSpec("my_loss", higher_is_better=False)


def test_of_equals_the_earlier_is_better():
    assert ranked({2: {"m/loss": 1.0}, 1: {"m/loss": 1.0}, 3: {"m/loss": 0.5}}, "m/loss", False) == [3, 1, 2]
    assert ranked({2: {"m/bleu": 1.0}, 1: {"m/bleu": 1.0}, 3: {"m/bleu": 0.5}}, "m/bleu", True) == [1, 2, 3]


def test_a_checkpoint_is_renamed_before_it_is_deleted(checkpoints, monkeypatch):
    def crash(path):
        assert path.name == "2.deleting"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", crash)
        delete_checkpoint(checkpoints / "2")
    assert committed_steps(checkpoints) == [1, 3, 4, 5, 6]
    assert remove_leftovers(checkpoints) == ["2.deleting"]


def test_leftovers_go_and_all_else_stays(checkpoints):
    leftovers = {
        "8.orbax-checkpoint-tmp", "8.orbax-checkpoint-tmp-17", "9.saving-0a1b", "9.saving-0a1b.orbax-checkpoint-tmp",
        "3.deleting", "3.deleting.2",
    }  # fmt: skip
    others = {
        "7", "5.damaged", "notes", "notes.deleting", "plan.orbax-checkpoint-tmp", "9.saving-mine", "3.deleting.txt", "²", "٣",
        "٣.deleting", "007", "007.deleting",
    }  # fmt: skip
    for name in leftovers | others:
        (checkpoints / name).mkdir()
        (checkpoints / name / "file").write_text("")
    (checkpoints / "12").write_text("a file of the user")
    assert set(remove_leftovers(checkpoints)) == leftovers
    assert {path.name for path in checkpoints.iterdir()} == {"1", "2", "3", "4", "5", "6", "12"} | others
    assert remove_leftovers(checkpoints / "nothing") == []


def test_a_checkpoint_with_a_damaged_manifest_is_neither_deleted_nor_best(checkpoints):
    (checkpoints / "2" / "manifest.json").write_text("{}")
    apply_retention(checkpoints, Retention(keep_latest=1, keep_best=1))
    assert committed_steps(checkpoints) == [2, 4, 6]
    assert choose_step(checkpoints, "best", "eval/loss") == 4


@pytest.mark.parametrize(
    ("which", "metric", "step"),
    [
        ("latest", "eval/loss", 6),
        ("best", "eval/loss", 2),
        ("best", "eval/accuracy", 6),
        ("3", "eval/loss", 3),
    ],
)
def test_names_of_checkpoints(checkpoints, which, metric, step):
    assert choose_step(checkpoints, which, metric) == step


@pytest.mark.parametrize(
    ("which", "metric", "sentence"),
    [
        ("7", "eval/loss", r"--step=7: .* has no such checkpoint; it has 1, 2, 3, 4, 5, 6, `latest`"),
        ("last", "eval/loss", "--step=last: .* `latest` and `best`"),
        ("-1", "eval/loss", "--step=-1: .* has no such checkpoint"),
        ("best", "eval/bleu", r"no checkpoint in .* was saved with eval/bleu; use --step=latest"),
    ],
)
def test_names_that_stand_for_nothing(checkpoints, which, metric, sentence):
    with pytest.raises(UserError, match=sentence):
        choose_step(checkpoints, which, metric)


def test_without_checkpoints(tmp_path):
    with pytest.raises(UserError, match=r"holds no checkpoint: train first, or check the path"):
        choose_step(tmp_path, "latest")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.fixture
def with_files(tmp_path):
    """Checkpoints 1 to 5, better and better, each with a file."""
    for step in range(1, 6):
        directory = tmp_path / str(step)
        directory.mkdir()
        (directory / "array").write_bytes(bytes([step] * 9))
        write_manifest(directory, Manifest(step, 0.0, {"eval/loss": -float(step)}, [], describe_files(directory)))
    return tmp_path


def test_a_damaged_checkpoint_does_not_count_as_kept(with_files):
    for step in (4, 5):
        flip_a_bit(with_files / str(step) / "array")
    apply_retention(with_files, Retention(keep_latest=2, keep_best=1))
    assert committed_steps(with_files) == [2, 3, 4, 5]


def test_the_only_good_one_is_never_deleted(with_files):
    for step in (2, 3, 4, 5):
        flip_a_bit(with_files / str(step) / "array")
    apply_retention(with_files, Retention(keep_latest=1, keep_best=0))
    assert committed_steps(with_files) == [1, 2, 3, 4, 5]
    flip_a_bit(with_files / "1" / "array")
    apply_retention(with_files, Retention(keep_latest=1, keep_best=0))
    assert committed_steps(with_files) == [1, 2, 3, 4, 5]


def test_a_checkpoint_is_read_once_and_again_when_it_was_touched(with_files, monkeypatch):
    read, is_intact = [], Intactness()
    monkeypatch.setattr(integrity, "find_damage", lambda path: read.append(path.name) or find_damage(path))
    is_intact.trust(with_files / "5")
    for _ in range(3):
        assert is_intact(with_files / "5") and is_intact(with_files / "4")
    assert read == ["4"]
    flip_a_bit(with_files / "5" / "array")
    assert not is_intact(with_files / "5") and not is_intact(with_files / "5")
    flip_a_bit(with_files / "5" / "array")
    assert is_intact(with_files / "5")
    assert read == ["4", "5", "5", "5"]


def test_every_rule_says_what_it_keeps():
    metrics = {step: {"eval/loss": loss} for step, loss in LOSSES.items()}
    reasons = Retention(keep_latest=2, keep_best=1, keep_every_steps=3, keep_back_steps=3).reasons(metrics)
    assert reasons == {
        2: ["best"], 3: ["every 3", "rollback"], 4: ["rollback"], 5: ["latest"], 6: ["latest", "every 3"],
    }  # fmt: skip
    assert Retention().reasons({}) == {}


@pytest.mark.parametrize(
    ("retention", "there", "is_best"),
    [
        (Retention(), {}, [True, False, True, False, False]),
        (Retention(keep_best=2), {}, [True, True, True, False, True]),
        (Retention(metric="eval/accuracy", higher_is_better=True), {}, [True, True, False, False, False]),
        (Retention(), {1: {"eval/loss": 2.5}, 2: {}, 3: {"eval/loss": None}}, [False, False, True, False, False]),
        (Retention(keep_best=0), {}, [False] * 5),
        (Retention(metric="eval/other"), {}, [False] * 5),
    ],
    ids=["one", "two", "rising", "resumed", "none", "not measured"],
)
def test_evaluations_that_are_among_the_best_so_far(retention, there, is_best):
    best = BestSoFar(retention, there)
    losses = [3.0, 4.0, 2.0, math.nan, 2.0]
    found = [best.add(step, {"eval/loss": loss, "eval/accuracy": loss}) for step, loss in enumerate(losses, 10)]
    assert found == is_best
