"""Comparison of runs written by hand, whose first difference is known, and of runs that were trained."""

import json
import math
import random
import shutil

import numpy as np
import pytest
import tiny_runs
from written_runs import losses, parameters, scanned, start, write_lines, write_run

from jaxdp.cli.main import main
from jaxdp.errors import UserError
from jaxdp.inspection import compare_checkpoints, compare_runs
from jaxdp.inspection.compare_text import as_lines
from jaxdp.inspection.data_flow import data_flow_order

compilation_cache, config_file, trained = tiny_runs.compilation_cache, tiny_runs.config_file, tiny_runs.trained

KEYS = {
    "first", "second", "is_equal", "verdict", "step", "metrics", "norms", "checkpoints", "config", "later_config", "data",
    "versions", "causes", "restarts", "starts", "dtypes", "problems",
}  # fmt: skip


def compared(tmp_path, first, second, **options):
    """The comparison of two runs of some lines, or of arguments of `write_run`."""
    sides = [side if isinstance(side, dict) else {"lines": side} for side in (first, second)]
    paths = [write_run(tmp_path / name, **side) for name, side in zip("ab", sides, strict=True)]
    found = compare_runs(*paths, **options)
    assert found.keys() == KEYS
    json.dumps(found, allow_nan=False)
    assert as_lines(found)[-1] == f"verdict   {found['verdict']}"
    return found


def test_a_run_and_itself(tmp_path):
    run = write_run(
        tmp_path / "a", losses(range(1, 31)), starts=[start()], checkpoints={10: parameters(), 30: parameters()}
    )
    found = compare_runs(run, run)
    assert found["is_equal"] is True and found["problems"] == []
    assert found["verdict"] == "No difference in 30 common steps, 0 common evaluations and 2 common checkpoints."


def test_the_first_difference_is_that_which_was_made(tmp_path):
    """For many files: a value of a random metric changed at a random step, and all later ones by more."""
    names = ("data/batch_hash", "train/loss", "train/grad_norm", "train/learning_rate", "eval/loss")
    first, second = (write_run(tmp_path / name) for name in "ab")
    for seed in range(60):
        chosen = random.Random(seed)
        lines = losses(range(1, 41, chosen.choice((1, 3))))
        lines += [{"step": line["step"], "eval/loss": line["train/loss"] + 1} for line in lines[::4]]
        lines.sort(key=lambda line: line["step"])
        name = chosen.choice(names)
        having = [index for index, line in enumerate(lines) if name in line]
        index = chosen.choice(having)
        changed = [dict(line) for line in lines]
        for later in having[having.index(index) :]:
            value = changed[later][name]
            changed[later][name] = "f" * 16 if isinstance(value, str) else math.nextafter(value, math.inf)
        write_lines(first, lines)
        write_lines(second, changed)
        found = compare_runs(first, second)["metrics"]
        [difference] = found["differences"]
        step = lines[index]["step"]
        assert (difference["metric"], difference["step"]) == (name, step), seed
        assert difference["first"] == lines[index][name] and difference["second"] == changed[index][name]
        assert found["last_equal_step"] == max((line["step"] for line in lines if line["step"] < step), default=None)
        assert difference["different"] == difference["compared_since"] == len(having) - having.index(index)
        assert difference["compared"] == len(having)
        assert found["common_evaluations"] == sum("eval/loss" in line for line in lines)


def test_size_and_growth_of_a_difference(tmp_path):
    lines, changed = losses(range(1, 21)), losses(range(1, 21))
    for line in changed[4:]:
        line["train/loss"] += 2.0 ** (line["step"] - 25)
    [difference] = compared(tmp_path, lines, changed)["metrics"]["differences"]
    expected = [(step, 2.0 ** (step - 25)) for step in (5, 6, 7, 9, 13, 20)]
    assert [step for step, *_ in difference["growth"]] == [step for step, _ in expected]
    for (step, absolute, relative), (_, size) in zip(difference["growth"], expected, strict=True):
        assert absolute == pytest.approx(size, rel=1e-9)
        assert relative == pytest.approx(size / lines[step - 1]["train/loss"], rel=1e-9)


@pytest.mark.parametrize(("steps", "when"), [((3, 4), "from step 3 on."), ((3,), "first at step 3.")])
def test_other_batches(tmp_path, steps, when):
    changed = losses([1, 2, 3, 4])
    for step in steps:
        changed[step - 1]["data/batch_hash"] = "f" * 16
    assert compared(tmp_path, losses([1, 2, 3, 4]), changed)["verdict"].startswith(f"The batches differ {when}")


def test_metrics_of_a_step_come_in_the_order_of_their_computation(tmp_path):
    lines, changed = losses([1, 2]), losses([1, 2])
    for line, offset in zip((lines[1], changed[1]), (0.0, 1.0), strict=True):
        line |= {"eval/accuracy": offset, "norms/params/a": offset, "own/number": offset, "train/skipped": offset}
        for name in ("train/learning_rate", "train/grad_norm", "train/loss"):
            line[name] += offset
        line["data/batch_hash"] = str(offset)
    found = compared(tmp_path, lines, changed)
    assert [row["metric"] for row in found["metrics"]["differences"]] == [
        "data/batch_hash", "train/loss", "train/grad_norm", "train/learning_rate", "train/skipped", "norms/params/a",
        "own/number", "eval/accuracy",
    ]  # fmt: skip


def test_speeds_and_shares_of_a_mixture_are_not_compared(tmp_path):
    lines, changed = losses([1, 2]), losses([1, 2])
    changed[0] |= {"perf/step_secs": 9.0, "data/share_books": 0.5, "time": 3.0}
    lines[0]["data/share_books"] = 0.6
    assert compared(tmp_path, lines, changed)["is_equal"] is True


def test_runs_that_log_at_other_steps_and_end_elsewhere(tmp_path):
    found = compared(tmp_path, losses(range(10, 101, 10)), losses(range(4, 81, 4)))
    assert found["metrics"]["common_steps"] == 4 and found["is_equal"] is True
    assert found["metrics"]["steps"] == [
        {"first": 10, "last": 100, "count": 10},
        {"first": 4, "last": 80, "count": 20},
    ]
    assert found["verdict"].endswith("The first run has logged up to step 100, the second up to step 80.")


def test_the_step_before_is_the_last_common_one(tmp_path):
    changed = losses(range(4, 81, 4))
    for line in changed:
        line["train/loss"] += line["step"] > 50
    found = compared(tmp_path, losses(range(10, 101, 10)), changed)
    assert (found["metrics"]["differences"][0]["step"], found["metrics"]["last_equal_step"]) == (60, 40)
    assert "differs first at step 60 (the last common step before is 40), by 1 (relative" in found["verdict"]


def test_runs_without_a_common_step(tmp_path):
    found = compared(tmp_path, losses([1, 3]), losses([2, 4]))
    assert found["is_equal"] is None
    assert found["verdict"].startswith(
        "The runs have no step and no checkpoint in common, so no number was compared. The first run"
    )


@pytest.mark.parametrize("missing", ["metrics.jsonl", "provenance.json"])
def test_files_that_a_run_has_not(tmp_path, missing):
    first, second = (write_run(tmp_path / name, losses([1, 2]), starts=[start()]) for name in "ab")
    (second / missing).unlink()
    found = compare_runs(first, second)
    [problem] = found["problems"]
    assert problem.startswith(f"{second / missing} is missing")
    assert found["versions"] == [] and found["is_equal"] is (None if missing == "metrics.jsonl" else True)


def test_a_file_without_lines_is_told(tmp_path):
    first, second = (write_run(tmp_path / name, losses([1, 2]), starts=[start()]) for name in "ab")
    (second / "metrics.jsonl").write_text("")
    [problem] = compare_runs(first, second)["problems"]
    assert problem == f"{second / 'metrics.jsonl'} has no line of training metrics, so none were compared."


def test_one_of_a_kind_is_singular(tmp_path):
    lines = [*losses([1]), {"step": 1, "eval/loss": 1.0}]
    assert "metrics   1 common step (1 to 1), 1 evaluation" in as_lines(compared(tmp_path, lines, lines))


def test_null_is_equal_to_null_and_differs_from_a_number(tmp_path):
    lines, changed = losses([1, 2, 3]), losses([1, 2, 3])
    for line in (lines[0], changed[0], changed[1]):
        line["train/grad_norm"] = None
    found = compared(tmp_path, lines, changed)
    [difference] = found["metrics"]["differences"]
    assert (difference["step"], difference["second"], difference["different"]) == (2, None, 1)
    assert difference["growth"][0] == [2, None, None]
    assert "the gradient norm differs first at step 2, 1.5 and not finite." in found["verdict"]


def test_runs_without_batch_hashes(tmp_path):
    lines, changed = losses([1, 2]), losses([1, 2])
    for line in lines:
        del line["data/batch_hash"]
    changed[1]["train/loss"] += 1
    found = compared(tmp_path, {"lines": lines, "changes": {"seed": 1}}, changed)
    assert found["metrics"]["batches"] == "unknown" and found["metrics"]["only_second"] == ["data/batch_hash"]
    assert found["verdict"].startswith(
        "The loss differs first at step 2, by 1 (relative 0.35); without log.batch_hash in both"
    )
    assert [(cause["name"], cause["determines"]) for cause in found["causes"]] == [("seed", "the batches")]


def test_a_line_that_a_live_run_is_writing_does_not_count(tmp_path):
    first, second = (write_run(tmp_path / name, losses([1, 2])) for name in "ab")
    with (second / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train/lo')
    assert compare_runs(first, second)["metrics"]["common_steps"] == 2


def test_lines_out_of_order_are_refused(tmp_path):
    first, second = (write_run(tmp_path / name, losses(steps)) for name, steps in (("a", [1, 2]), ("b", [2, 1])))
    with pytest.raises(UserError, match=r"b/metrics.jsonl has step 1 after step 2; expected lines in the order"):
        compare_runs(first, second)


EXPLAINED = {
    # Changed keys, changes of the start, metric that differs, its step, its relative size -> names of causes.
    "batches of another seed": ({"seed": 1}, {}, "data/batch_hash", 1, None, ["seed"]),
    "batches of another optimizer": ({"optim.b1": 0.8}, {}, "data/batch_hash", 1, None, []),
    "batches of other data": ({"data.path": "x", "data.length": 9}, {}, "data/batch_hash", 1, None, ["data.path", "data.length"]),
    "loss of another model": ({"model.num_layers": 9, "log.samples": 1}, {}, "train/loss", 1, 0.1, ["model.num_layers"]),
    "loss of another optimizer": ({"optim.b1": 0.8}, {}, "train/loss", 3, 0.1, ["optim.b1"]),
    "loss before any update": ({"optim.b1": 0.8}, {}, "train/loss", 1, 0.1, []),
    "loss of more devices": ({"parallel.cpu_devices": 4}, {"count": 4}, "train/loss", 1, 1e-7, ["parallel.cpu_devices", "devices.count"]),
    "loss that no rounding has": ({"parallel.cpu_devices": 4}, {"count": 4}, "train/loss", 1, 0.1, []),
    "loss of another precision": ({"model.dtype": "bfloat16"}, {}, "train/loss", 1, 1e-3, ["model.dtype"]),
    "loss of local steps": ({"parallel.sync": "local"}, {}, "train/loss", 2, 0.1, ["parallel.sync"]),
    "loss of shards": ({"parallel.sync": "zero3"}, {}, "train/loss", 2, 1e-7, ["parallel.sync"]),
    "loss of another version": ({}, {"versions": {"jax": "0.11"}}, "train/loss", 2, 0.1, ["versions.jax"]),
    "schedule": ({"total_steps": 9, "optim.b1": 0.8}, {}, "train/learning_rate", 1, 0.1, ["total_steps", "optim.b1"]),
    "evaluation": ({"eval.num_batches": 3}, {}, "eval/loss", 2, 0.1, ["eval.num_batches"]),
    "another task's key": ({"masked_lm.mask_rate": 0.5}, {}, "data/batch_hash", 1, None, []),
    "the task's key": ({"causal_lm.completion_only": True}, {}, "data/batch_hash", 1, None, ["causal_lm.completion_only"]),
}  # fmt: skip


@pytest.mark.parametrize("case", EXPLAINED)
def test_causes_are_the_differences_that_determine_the_number(tmp_path, case):
    changes, of_start, metric, step, relative, names = EXPLAINED[case]
    lines, changed = losses(range(1, 6)), losses(range(1, 6))
    for own, factor in ((lines, 1.0), (changed, 1 + (relative or 0))):
        for line in own[step - 1 :]:
            line[metric] = factor if relative else str(own is lines)
    found = compared(
        tmp_path,
        {"lines": lines, "starts": [start()]},
        {"lines": changed, "changes": changes, "starts": [start(**of_start)]},
    )
    assert [cause["name"] for cause in found["causes"]] == names
    assert ("Nothing that was compared explains it" in found["verdict"]) is (not names)
    assert found["verdict"].count("rounding in ") == (relative in (1e-7, 1e-3))
    assert {key for key, *_ in found["config"]} == set(changes)


def test_starts_after_the_difference_explain_nothing(tmp_path):
    changed = losses(range(1, 11))
    for line in changed[4:]:
        line["train/loss"] += 1e-6
    sides = (
        {"lines": losses(range(1, 11)), "starts": [start()]},
        {"lines": changed, "starts": [start(), start(4, count=4), start(8, count=2)]},
    )
    found = compared(tmp_path, *sides)
    assert found["versions"] == [["devices.count", [8], [8, 4]]]
    assert found["restarts"] == [[], [4, 8]] and found["starts"] == [1, 3]
    assert "different devices.count (8, 8 then 4), on which the rounding depends." in found["verdict"]
    assert "The second run was started again from step 4, between that step and the last equal one." in found["verdict"]
    assert "from step 8" not in found["verdict"]


def test_paths_that_hold_no_run(tmp_path, capsys):
    run = write_run(tmp_path / "a", losses([1]))
    for arguments, name in (([tmp_path / "b", run], "RUN_A"), ([run, tmp_path], "RUN_B")):
        assert main(["compare", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and f"{name}={tmp_path}" in err and "holds no run (config.json is missing)" in err
        assert err.count("\n") == 1


def test_parameters_come_in_the_order_of_data_flow():
    ordered = [
        "token_embedding", "position_embedding", "layer_0/attention_norm/scale", "layer_0/attention/query/kernel",
        "layer_0/attention/out/kernel", "layer_0/mlp/up/kernel", "layer_0/mlp/down/kernel", "layer_2/mlp/up/kernel",
        "layer_10/attention_norm/scale", "final_norm/scale", "output/kernel", "own/table", "own_2/table",
    ]  # fmt: skip
    assert sorted(random.Random(0).sample(ordered, len(ordered)), key=data_flow_order) == ordered


@pytest.mark.parametrize("forms", ["unrolled", "scanned", "one of each"])
def test_the_first_leaf_and_the_change_of_each(tmp_path, forms):
    same, before = parameters(), parameters()
    after = {name: array.copy() for name, array in before.items()}
    after["layer_1/mlp/up/kernel"][2, 3] += 0.25
    after["layer_2/attention/query/kernel"] *= np.float32(1.5)
    after["final_norm/scale"][0, 0] = np.nan
    left = scanned if forms == "scanned" else dict
    right = dict if forms == "unrolled" else scanned
    first = {"starts": [start()], "checkpoints": {10: left(same), 20: left(before), 30: left(before)}}
    second = {"starts": [start()], "checkpoints": {10: right(same), 20: right(after), 30: right(after)}}
    found = compared(tmp_path, first, second)
    checkpoints = found["checkpoints"]
    assert (checkpoints["steps"], checkpoints["last_equal_step"], checkpoints["step"]) == ([10, 20, 30], 10, 20)
    assert checkpoints["first_leaf"] == "params/layer_1/mlp/up/kernel"
    names = ["layer_1/mlp/up/kernel", "layer_2/attention/query/kernel", "final_norm/scale"]
    assert [change["path"] for change in checkpoints["changes"]] == names
    small, large, broken = checkpoints["changes"]
    assert small["relative"] == pytest.approx(0.25 / np.linalg.norm(before[names[0]].astype(np.float64)), rel=1e-6)
    assert large["relative"] == pytest.approx(0.5, rel=1e-6) and broken["max"] is None
    assert found["is_equal"] is False and len(found["problems"]) == (2 if forms == "one of each" else 0)


def test_checksums_suffice_to_name_the_leaves(tmp_path, monkeypatch):
    before, after = parameters(), parameters()
    after["layer_2/mlp_norm/scale"][0, 0] += 1
    monkeypatch.setattr("jaxdp.inspection.compare_checkpoints._read_changes", None)
    found = compared(tmp_path, {"checkpoints": {5: before}}, {"checkpoints": {5: after}}, read_arrays=False)[
        "checkpoints"
    ]
    assert found["first_leaf"] == "params/layer_2/mlp_norm/scale" and found["changes"] is None
    assert found["parts"]["params"] == {"equal": len(before) - 1, "different": 1, "only_first": 0, "only_second": 0}


def test_another_shape_and_other_names(tmp_path):
    before, after = parameters(), parameters()
    after["token_embedding"], after["output/kernel"] = np.ones((5, 4), np.float32), after.pop("final_norm/scale")
    found = compared(tmp_path, {"checkpoints": {5: before}}, {"checkpoints": {5: after}})["checkpoints"]
    assert found["parts"]["params"] == {"equal": len(before) - 2, "different": 1, "only_first": 1, "only_second": 1}
    assert found["first_leaf"] == "params/token_embedding" and found["changes"] == []


@pytest.mark.parametrize("damage", ["manifest.json", "parameters.safetensors"])
def test_damaged_checkpoints_are_told(tmp_path, damage):
    before, after = parameters(), parameters()
    after["token_embedding"] += 1
    first = write_run(tmp_path / "a", losses([1]), starts=[start()], checkpoints={5: before, 9: before})
    second = write_run(tmp_path / "b", losses([1]), starts=[start()], checkpoints={5: after, 9: after})
    path = second / "checkpoints" / "5" / damage
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a value of the last array, or the end of the manifest
    found = compare_runs(first, second)
    [problem] = found["problems"]
    assert str(second / "checkpoints" / "5") in problem
    assert found["checkpoints"]["step"] == (9 if damage == "manifest.json" else 5)
    assert found["checkpoints"]["first_leaf"] == "params/token_embedding"


def test_a_checkpoint_that_a_live_run_deletes_meanwhile(tmp_path, monkeypatch):
    after = parameters()
    after["token_embedding"] += 1
    paths = [write_run(tmp_path / name, losses([1]), starts=[start()], checkpoints={5: arrays})
             for name, arrays in (("a", parameters()), ("b", after))]  # fmt: skip
    deleted = paths[1] / "checkpoints" / "5"

    def find_damage(checkpoint):
        shutil.rmtree(deleted, ignore_errors=True)
        return []

    monkeypatch.setattr(compare_checkpoints, "find_damage", find_damage)
    found = compare_runs(*paths)
    assert found["problems"] == [
        f"{deleted} was deleted while it was read, so no arrays of this checkpoint were compared."
    ]
    assert found["checkpoints"]["step"] == 5


# ---- Runs that were trained -------------------------------------------------


@pytest.fixture(scope="module")
def another(config_file, trained):
    """A run with another decay of the optimizer."""
    workdir = config_file.parent / "another_b2"
    assert tiny_runs.train(config_file, workdir, "--config.optim.b2=0.9") == 0
    return workdir


def test_a_trained_run_and_its_copy(trained, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    assert main(["compare", str(trained), str(copy), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "No difference in 6 common steps, 2 common evaluations and 2 common checkpoints."
    assert found["is_equal"] is True and not found["config"] and not found["data"] and not found["versions"]
    assert found["dtypes"] == ["float32", "float32"]


def test_another_optimizer(trained, another, capsys):
    """Adam's first update has size one whatever b2: the parameters differ from the second on, the loss from step 3 on."""
    assert main(["compare", str(trained), str(another)]) == 0
    out = capsys.readouterr().out
    found = compare_runs(trained, another)
    assert found["config"] == [["optim.b2", 0.95, 0.9]]
    assert (found["metrics"]["differences"][0]["metric"], found["metrics"]["batches"]) == ("train/loss", "equal")
    assert found["metrics"]["differences"][0]["step"] == 3 and found["metrics"]["last_equal_step"] == 2
    assert found["checkpoints"]["step"] == 3 and found["checkpoints"]["first_leaf"] == "params/token_embedding"
    assert "Different optim.b2 (0.95, 0.9), on which the updates depend." in out.splitlines()[-1]
    expected = {}
    for name, array in tiny_runs.saved_arrays(trained, 3).items():
        change = tiny_runs.saved_arrays(another, 3)[name].astype(np.float64) - array
        expected[name] = np.linalg.norm(change) / max(np.linalg.norm(array.astype(np.float64)), 1e-30)
    for row in found["checkpoints"]["changes"]:
        [value] = [value for name, value in expected.items() if name == _key(row["path"])]
        assert row["relative"] == pytest.approx(value, rel=1e-9)


def _key(path):
    return "['params']" + "".join(f"['{part}']" for part in path.split("/"))


def test_another_key_in_a_resumed_run(trained, tmp_path):
    """A restart between the last equal step and the first difference is named, and the data of both are the same."""
    copy = shutil.copytree(trained, tmp_path / "copy")
    entries = json.loads((copy / "provenance.json").read_text())
    (copy / "provenance.json").write_text(json.dumps([*entries, entries[0] | {"first_step": 3}]))
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["step"] > 3 and "train/loss" in line:
            line["train/loss"] += 1
    write_lines(copy, lines)
    found = compare_runs(trained, copy)
    assert found["causes"] == [] and found["data"] == []
    assert "Nothing that was compared explains it" in found["verdict"]
    assert "The second run was started again from step 3" in found["verdict"]
