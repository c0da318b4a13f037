"""A run with batches that are not finite: back before them, on without them, and in the end exit code 3."""

import json
import math
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
from faults import poison
from tiers import others_slow
from tiny_runs import assert_refused, assert_same_bits, load, metrics_lines, saved_arrays, train

from jaxdp.data.loader import IndexedLoader
from jaxdp.errors import TrainingDiverged
from jaxdp.hooks.divergence import Diverged
from jaxdp.hooks.preemption import Preemption
from jaxdp.training import rollback
from jaxdp.training.retention_rules import farthest_rollback
from jaxdp.training.rollback import Rollbacks, spoiled_batches
from jaxdp.training.setup import TrainingSetup
from jaxdp.workdir import WorkDir

STEPS = 12
OPTIONS = [
    f"--config.total_steps={STEPS}", "--config.optim.max_skipped_in_a_row=2", "--config.checkpoint.every_steps=2",
    "--config.checkpoint.keep_latest=20", "--config.eval.every_steps=0",
]  # fmt: skip
LEFT_OUT = [3, 4, 5, 6]  # slots 5 and 6 are not finite; as many before them go too


def saved_data(workdir, step):
    return json.loads((workdir / "checkpoints" / str(step) / "data" / "metadata").read_text())


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def without(config_file, tmp_path_factory):
    """A run that never saw the batches that are left out."""
    workdir = tmp_path_factory.mktemp("without")
    initialise = TrainingSetup.__init__

    def excluding(setup, *given):
        initialise(setup, *given)
        setup.loader.exclude(LEFT_OUT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingSetup, "__init__", excluding)
        assert train(config_file, workdir, *OPTIONS) == 0
    return workdir


def assert_like(workdir, without):
    """The same state and the same numbers at every step, each once."""
    assert_same_bits(saved_arrays(workdir, STEPS), saved_arrays(without, STEPS))
    lines, expected = metrics_lines(workdir), metrics_lines(without)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "train/skipped", "data/batch_hash"):
        assert [line[name] for line in lines] == [line[name] for line in expected]
    assert saved_data(workdir, STEPS)["exclusions"] == LEFT_OUT
    assert saved_data(workdir, STEPS)["rollbacks"] == 1


def test_the_run_goes_back_and_on_as_if_it_had_never_seen_them(config_file, without, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, 5, 6)
    assert train(config_file, tmp_path, *OPTIONS) == 0
    err = capsys.readouterr().err
    assert (
        "the updates of steps 6 to 7 had a non-finite loss or gradient and were skipped: going back to before step 4 "
        "and excluding batches 3 to 6 of the data (rollback 1 of 2, optim.max_rollbacks)\n"
        "resuming from checkpoint 2 of 12 steps\n"
    ) in err
    assert_like(tmp_path, without)
    assert checkpoints(tmp_path) == [2, 4, 6, 8, 10, 12]
    assert saved_data(tmp_path, 2)["exclusions"] == [] and saved_data(tmp_path, 4)["exclusions"] == LEFT_OUT


@pytest.mark.slow  # a sharded run resumes: test_sharded_resume.py
def test_with_sharded_state_it_goes_back_alike(config_file, without, tmp_path, monkeypatch, small_shards):
    poison(monkeypatch.setattr, 5, 6)
    assert train(config_file, tmp_path, *OPTIONS, "--config.parallel.sync=zero3") == 0
    assert saved_data(tmp_path, STEPS)["exclusions"] == LEFT_OUT
    lines, expected = metrics_lines(tmp_path), metrics_lines(without)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["data/batch_hash"] for line in lines] == [line["data/batch_hash"] for line in expected]
    for name in ("train/loss", "train/grad_norm"):
        assert [line[name] for line in lines] == pytest.approx([line[name] for line in expected], rel=1e-5)
    arrays, whole = saved_arrays(tmp_path, STEPS), saved_arrays(without, STEPS)
    assert {name: array.shape for name, array in arrays.items()} == {name: array.shape for name, array in whole.items()}


@pytest.mark.slow
def test_with_workers_it_goes_back_in_the_middle_of_a_period(config_file, without, tmp_path, monkeypatch):
    poison(monkeypatch.setattr, 5, 6)
    local = ["--config.parallel.sync=local", "--config.parallel.local_steps=5"]
    assert train(config_file, tmp_path, *OPTIONS, *local) == 0
    assert saved_data(tmp_path, STEPS)["exclusions"] == LEFT_OUT
    lines, expected = metrics_lines(tmp_path), metrics_lines(without)
    assert [line["data/batch_hash"] for line in lines] == [line["data/batch_hash"] for line in expected]
    assert all(math.isfinite(line["train/loss"]) for line in lines)


def test_without_a_checkpoint_it_starts_again(config_file, without, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, 5, 6)
    assert train(config_file, tmp_path, *OPTIONS, "--config.checkpoint.every_steps=0") == 0
    assert "no checkpoint is from before that: starting again from step 1\n" in capsys.readouterr().err
    assert_like(tmp_path, without)


@pytest.mark.slow
def test_stopped_and_started_again_and_again_it_ends_the_same(config_file, without, tmp_path, monkeypatch):
    """SIGTERM in the first step of every start: before, within and after the bad updates."""
    poison(monkeypatch.setattr, 5, 6)

    def on_dispatch(hook, step, state):
        if not hook.request():
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Preemption, "on_dispatch", on_dispatch)
    codes = []
    while not codes or (codes[-1] == 75 and len(codes) < 20):
        codes.append(train(config_file, tmp_path, *OPTIONS))
    assert codes[-1] == 0 and len(codes) > 6
    assert_like(tmp_path, without)


@pytest.mark.parametrize("moment", others_slow(["exclude", "delete"], "delete"))
def test_killed_while_it_goes_back_it_ends_the_same(config_file, without, tmp_path, capsys, monkeypatch, moment):
    poison(monkeypatch.setattr, 5, 6)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "exclude":
            patch.setattr(Rollbacks, "exclude", die)
        else:
            patch.setattr("jaxdp.training.session.delete_checkpoint", die)
        assert train(config_file, tmp_path, *OPTIONS) == 130
    assert checkpoints(tmp_path) == [2, 4, 6]
    capsys.readouterr()
    assert train(config_file, tmp_path, *OPTIONS) == 0
    err = capsys.readouterr().err
    assert err.index("resuming from checkpoint 6") < err.index("resuming from checkpoint 2")
    assert_like(tmp_path, without)


@pytest.mark.slow
def test_killed_after_it_went_back_it_remembers(config_file, without, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, 5, 6)
    assert train(config_file, tmp_path, *OPTIONS) == 0
    for later in (8, 10, 12):
        shutil.rmtree(tmp_path / "checkpoints" / str(later))
    capsys.readouterr()
    assert train(config_file, tmp_path, *OPTIONS) == 0
    err = capsys.readouterr().err
    assert "resuming from checkpoint 6" in err and "going back" not in err
    assert_like(tmp_path, without)


def test_bad_last_updates_are_no_end(config_file, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, 10, 11)
    assert train(config_file, tmp_path, *OPTIONS) == 0
    assert saved_data(tmp_path, STEPS)["exclusions"] == [8, 9, 10, 11]
    assert [line["train/skipped"] for line in metrics_lines(tmp_path)] == [0] * STEPS


def test_when_it_went_back_too_often_it_says_which_rows_and_which_layer(config_file, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, *range(5, 30))
    seen = []
    rows_of = IndexedLoader.rows

    def rows(setup, step, row_ids):
        seen.append((step, rows_of(setup, step, row_ids)))
        return seen[-1][1]

    monkeypatch.setattr(IndexedLoader, "rows", rows)
    assert train(config_file, tmp_path, *OPTIONS, "--config.optim.max_rollbacks=1") == 3
    err = capsys.readouterr().err
    assert "(rollback 1 of 1, optim.max_rollbacks)" in err
    [(step, of_batch)] = seen
    assert step == 3
    culprits = ", ".join(map(str, sorted(of_batch[:2])))
    assert err.splitlines()[-1] == (
        "jaxdp: training diverged: the updates of steps 4 to 5 had a non-finite loss or gradient and were skipped, and "
        "the 1 rollbacks of optim.max_rollbacks are used up. The batch of step 4: not finite in rows "
        f"{culprits} of the training data alone; the first layer whose output is not finite is embed. The checkpoints "
        f"in {tmp_path / 'checkpoints'} are good (2, 4). Fix the data where rows alone are named; else start a new run with a lower optim.learning_rate, "
        "a longer optim.warmup_steps or a lower optim.clip_norm."
    )
    assert checkpoints(tmp_path) == [2, 4]  # 4 lies within the bad updates, which changed nothing


@pytest.mark.slow  # the sentence: test_what_is_left_is_told_whatever_ended_the_run
def test_without_rollbacks_the_first_time_is_the_last(config_file, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, 5, 6)
    assert train(config_file, tmp_path, *OPTIONS, "--config.optim.max_rollbacks=0") == 3
    sentence = assert_refused(capsys, 3)
    assert "the updates of steps 6 to 7 had" in sentence and f"{tmp_path / 'checkpoints'} are good (2, 4" in sentence


@pytest.mark.slow  # the sentence: test_what_is_left_is_told_whatever_ended_the_run
def test_a_run_that_diverges_before_its_first_checkpoint_says_so(config_file, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, 0, 1)
    options = (
        *OPTIONS,
        "--config.optim.max_rollbacks=0",
        "--config.checkpoint.every_steps=0",
        "--config.eval.every_steps=0",
    )
    assert train(config_file, tmp_path, *options) == 3
    sentence = assert_refused(capsys, 3)
    assert "No checkpoint was saved before that." in sentence and "are good" not in sentence


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ((), "No checkpoint was saved before that."),
        (("4.damaged", "6.saving-0a1b"), "No checkpoint was saved before that."),
        (("2", "4.damaged", "10"), "The checkpoints in {} are good (2, 10)."),
    ],
    ids=["none", "none that is whole", "two"],
)
@pytest.mark.parametrize(
    ("can_exclude", "reason"),
    [(False, "a stream cannot exclude its batches"), (True, "the 0 rollbacks of optim.max_rollbacks are used up")],
)
def test_what_is_left_is_told_whatever_ended_the_run(
    config_file, trained, tmp_path, monkeypatch, saved, told, can_exclude, reason
):
    monkeypatch.setattr(rollback, "diagnose", lambda *_: "not finite in row 3")
    config = load(config_file, "optim.max_rollbacks=0")
    directory = WorkDir(tmp_path)
    for name in saved:
        shutil.copytree(trained / "checkpoints" / "6", directory.checkpoints / name)
    rollbacks = Rollbacks(SimpleNamespace(config=config, loader=SimpleNamespace(can_exclude=can_exclude)), directory)
    with pytest.raises(TrainingDiverged) as raised:
        rollbacks.exclude(Diverged(3, 2, False), {})
    assert reason in str(raised.value) and told.format(directory.checkpoints) in str(raised.value)
    assert ("are good" in str(raised.value)) == ("2" in saved)


def test_all_processes_tell_the_checkpoints_of_process_0(config_file, tmp_path):
    """The mirror of another process does not have those of this start."""
    setup = SimpleNamespace(
        config=load(config_file, "optim.max_rollbacks=0"), loader=SimpleNamespace(can_exclude=False)
    )
    rollbacks = Rollbacks(setup, WorkDir(tmp_path, url="s3://bucket/run"), lambda steps: [*steps, 7])
    with pytest.raises(TrainingDiverged, match=r"in s3://bucket/run/checkpoints are good \(7\)"):
        rollbacks.exclude(Diverged(3, 2, False), {})


@pytest.mark.parametrize(
    ("first_step", "num_steps", "batches"), [(8, 2, [5, 6, 7, 8]), (2, 3, [0, 1, 2, 3]), (1, 1, [0])]
)
def test_what_is_left_out(first_step, num_steps, batches):
    spoiled = spoiled_batches(Diverged(first_step, num_steps, False))
    assert list(spoiled) == batches
    assert spoiled.start >= first_step + num_steps - 1 - farthest_rollback(num_steps)


@pytest.mark.parametrize(
    ("first_step", "delay", "batches"), [(8, 1, [4, 5, 6, 7]), (8, 3, [2, 3, 4, 5]), (4, 3, [0, 1])]
)
def test_what_is_left_out_if_gradients_are_applied_late(first_step, delay, batches):
    spoiled = spoiled_batches(Diverged(first_step, 2, False), delay)
    assert list(spoiled) == batches
    assert spoiled.start >= first_step + 1 - farthest_rollback(2, delay)


@pytest.mark.slow
def test_a_run_with_late_gradients_leaves_out_the_same(config_file, tmp_path, monkeypatch, capsys):
    initialise, delayed = TrainingSetup.__init__, ["--config.parallel.sync=delayed", "--config.parallel.delay_steps=2"]

    def excluding(setup, *given):
        initialise(setup, *given)
        setup.loader.exclude(LEFT_OUT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingSetup, "__init__", excluding)
        assert train(config_file, tmp_path / "without", *OPTIONS, *delayed) == 0
    poison(monkeypatch.setattr, 5, 6)
    few = ["--config.checkpoint.every_steps=1", "--config.checkpoint.keep_latest=1", "--config.checkpoint.keep_best=0"]
    assert train(config_file, tmp_path / "with", *OPTIONS, *few, *delayed) == 0
    err = capsys.readouterr().err
    assert "the updates of steps 8 to 9" in err and "excluding batches 3 to 6" in err
    assert "resuming from checkpoint" in err and "starting again" not in err
    assert_like(tmp_path / "with", tmp_path / "without")


@pytest.mark.slow  # the number that is kept: test_what_is_left_out
def test_retention_keeps_what_it_may_have_to_go_back_to(config_file, without, tmp_path, capsys, monkeypatch):
    poison(monkeypatch.setattr, 5, 6)
    options = [
        "--config.checkpoint.every_steps=1",
        "--config.checkpoint.keep_latest=1",
        "--config.checkpoint.keep_best=0",
    ]
    assert train(config_file, tmp_path, *OPTIONS, *options) == 0
    assert "resuming from checkpoint 1 of 12 steps" in capsys.readouterr().err
    assert_like(tmp_path, without)
    assert checkpoints(tmp_path) == [7, 10, 12]


@pytest.fixture
def nervous(monkeypatch):
    """Options under which every loss above the mean of those before is a spike."""
    monkeypatch.setattr("jaxdp.optim.spikes.SPIKE_WARMUP", 2)
    return [*OPTIONS, "--config.optim.spike_factor=1.0001", "--config.optim.learning_rate=1e-9"]  # it only wobbles


@pytest.mark.slow
def test_spikes_are_skipped_and_a_resumed_run_skips_the_same(config_file, tmp_path, nervous):
    options = [*nervous, "--config.optim.max_skipped_in_a_row=12"]
    assert train(config_file, tmp_path, *options) == 0
    lines, arrays = metrics_lines(tmp_path), saved_arrays(tmp_path, STEPS)
    assert 0 < lines[-1]["train/skipped"] < STEPS
    assert sum("loss_mean" in name for name in arrays) == 1
    for later in range(6, STEPS + 1, 2):
        shutil.rmtree(tmp_path / "checkpoints" / str(later))
    assert train(config_file, tmp_path, *options) == 0
    assert_same_bits(saved_arrays(tmp_path, STEPS), arrays)
    skipped = [[line["train/skipped"] for line in run] for run in (metrics_lines(tmp_path), lines)]
    assert skipped[0] == skipped[1]


def test_too_many_spikes_are_called_that(config_file, tmp_path, capsys, nervous):
    options = ["--config.optim.max_skipped_in_a_row=1", "--config.optim.max_rollbacks=0"]
    assert train(config_file, tmp_path, *nervous, *options) == 3
    sentence = assert_refused(capsys, 3)
    assert "had a loss above 1.0001 times its running mean (optim.spike_factor) and were skipped" in sentence
    assert "computed again, everything on every device is finite" in sentence
