"""A run with hooks and writers of its caller, and what it leaves in the calling process."""

import signal
import sys
import threading
import types

import pytest
from tiny_runs import load, metrics_lines

import jaxdp
from jaxdp import watchdog
from jaxdp.errors import UserError
from jaxdp.hooks import registry
from jaxdp.report import writer_registry
from jaxdp.trainer import AbortTraining
from jaxdp.training.result import recorded_metrics
from jaxdp.workdir import WorkDir


class Recorder(jaxdp.Hook):
    """Records what it is called with."""

    def __init__(self, info=None):
        self.info, self.calls = info, []

    def on_start(self, step, state):
        self.calls.append(("start", step))

    def on_step(self, info):
        self.calls.append(("step", info.step))

    def wants_state(self, step):
        return step == 2

    def on_state(self, step, state):
        self.calls.append(("state", int(state.step)))

    def on_stop(self, step, state):
        self.calls.append(("stop", step))


class List:
    """A writer into a list."""

    def __init__(self):
        self.lines, self.is_closed = [], False

    def write(self, step, values):
        self.lines.append((step, dict(values)))

    def close(self):
        self.is_closed = True


def run(config_file, workdir, *overrides, **options):
    return jaxdp.train(load(config_file, "total_steps=3", *overrides), workdir, **options)


def test_hooks_and_writers_see_the_run_and_change_no_number(config_file, trained, tmp_path):
    hook, writer = Recorder(), List()
    result = run(config_file, tmp_path / "run", "optim.schedule=constant", hooks=[hook], writers=[writer])
    assert hook.calls == [("start", 0), ("step", 1), ("step", 2), ("state", 2), ("step", 3), ("stop", 3)]
    assert writer.is_closed
    lines = metrics_lines(tmp_path / "run", "step")
    assert [(line.pop("step"), line) for line in lines if line.pop("time")] == writer.lines
    run(config_file, tmp_path / "bare", "optim.schedule=constant")
    losses = [[line.get("train/loss") for line in metrics_lines(tmp_path / name)] for name in ("run", "bare")]
    assert losses[0] == losses[1]
    assert result.metrics == {name: value for name, value in lines[-1].items() if name.startswith("eval/")} != {}


def test_functions_make_hooks_and_writers_from_the_facts_of_the_run(config_file, tmp_path):
    made, opened = [], []

    class Doubled(jaxdp.Hook):
        def __init__(self, info):
            self.info = info
            made.append(info)

        def on_step(self, info):
            self.info.write(info.step, {"mine/double": 2.0 * info.step})

    def open_writer(info):
        opened.append((info, List()))
        return opened[-1][1]

    run(config_file, tmp_path, hooks=[Doubled], writers=[open_writer, lambda info: None])
    [info], [(same, writer)] = made, opened
    assert info is same and info.config.optim.warmup_steps == 2
    assert (info.workdir, info.first_step, info.total_steps, info.is_main_process) == (tmp_path, 0, 3, True)
    assert metrics_lines(tmp_path, "mine/double")[-1]["mine/double"] == 6.0
    assert (3, {"mine/double": 6.0}) in writer.lines and writer.is_closed


def test_registered_hooks_and_writers_are_in_every_run(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "HOOKS", {})
    monkeypatch.setattr(writer_registry, "WRITERS", {})
    made, writer = [], List()
    jaxdp.register_hook("mine", lambda info: made.append(Recorder(info)) or made[-1])
    jaxdp.register_writer("mine", lambda info: writer)
    for name in ("a", "b"):
        run(config_file, tmp_path / name)
    assert [hook.info.workdir.name for hook in made] == ["a", "b"]
    assert all(hook.calls[-1] == ("stop", 3) for hook in made)
    assert len([step for step, _ in writer.lines if step == 1]) == 2


def test_a_hook_stops_the_run(config_file, tmp_path, capsys):
    class Stop(jaxdp.Hook):
        def on_step(self, info):
            self.is_due = info.step == 2

        is_due = False

        def request(self):
            return jaxdp.Request.EARLY_STOP if self.is_due else jaxdp.Request.NONE

    result = jaxdp.train(
        load(config_file, "total_steps=50", "eval.every_steps=2", "checkpoint.keep_best=0"), tmp_path, hooks=[Stop()]
    )
    assert (result.step, result.request) == (3, 0)
    lines = metrics_lines(tmp_path, "eval/loss")
    assert [line["step"] for line in lines] == [2, 3]
    assert lines[-1]["eval/loss"] == result.metrics["eval/loss"]
    assert "stopped early by the hook Stop after step 3; everything is in" in capsys.readouterr().err


@pytest.mark.parametrize("every", [100, 0])
def test_a_run_that_a_hook_stops_is_evaluated_if_evaluation_is_on(every, config_file, tmp_path):
    class Stop(jaxdp.Hook):
        def request(self):
            return jaxdp.Request.EARLY_STOP if self.step >= 2 else jaxdp.Request.NONE

        step = 0

        def on_step(self, info):
            self.step = info.step

    result = jaxdp.train(load(config_file, "total_steps=50", f"eval.every_steps={every}"), tmp_path, hooks=[Stop()])
    assert [line["step"] for line in metrics_lines(tmp_path, "eval/loss")] == ([result.step] if every else [])
    assert bool(result.metrics) is bool(every) and recorded_metrics(WorkDir(tmp_path), 50) == result.metrics


def test_the_result_of_a_finished_run_has_its_metrics(config_file, tmp_path):
    first = run(config_file, tmp_path)
    assert run(config_file, tmp_path).metrics == pytest.approx(first.metrics) != {}


def test_the_model_of_a_result_is_loaded_once(config_file, tmp_path, monkeypatch):
    loaded = types.ModuleType("loaded_model")
    loaded.load = lambda path: [path]
    monkeypatch.setitem(sys.modules, "jaxdp.inference.loaded_model", loaded)
    result = run(config_file, tmp_path)
    assert result.model == [tmp_path] and result.model is result.model


def test_without_a_watchdog_no_thread_watches_and_nothing_ends_the_process(config_file, tmp_path, monkeypatch):
    seen = []

    class Threads(jaxdp.Hook):
        def on_start(self, step, state):
            seen.append({thread.name for thread in threading.enumerate()})

    monkeypatch.setattr(watchdog.Watchdog, "tick", lambda self: None)
    for number, enabled in enumerate((True, False)):
        run(config_file, tmp_path / str(number), hooks=[Threads()], watchdog=enabled)
    assert ["jaxdp-watchdog" in names for names in seen] == [True, False]


@pytest.mark.parametrize("enabled", [True, False])
def test_signal_handlers_are_restored_or_never_set(enabled, config_file, tmp_path):
    seen, before = [], [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    class Handlers(jaxdp.Hook):
        def on_start(self, step, state):
            seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    run(config_file, tmp_path, hooks=[Handlers()], handle_signals=enabled)
    assert (seen == before) is not enabled
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    "error",
    [AbortTraining("odd numbers"), pytest.param(UserError("odd numbers: fix them."), marks=pytest.mark.slow)],
)
def test_a_documented_exception_of_a_hook_ends_the_run_in_one_sentence(error, config_file, tmp_path):
    class Refusing(jaxdp.Hook):
        def on_step(self, info):
            if info.step == 2:
                raise error

    with pytest.raises(UserError, match="odd numbers"):
        run(config_file, tmp_path / "run", "checkpoint.every_steps=1", hooks=[Refusing()])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]  # state 2 is discarded
    assert run(config_file, tmp_path / "run").step == 3


def test_an_exception_of_a_hook_is_the_callers_and_closes_its_writers(config_file, tmp_path):
    class Broken(jaxdp.Hook):
        def on_step(self, info):
            raise KeyError("nothing")

    writer = List()
    with pytest.raises(KeyError, match="nothing"):
        run(config_file, tmp_path, hooks=[Broken()], writers=[writer])
    assert writer.is_closed
    log = (tmp_path / "logs" / "process_0.log").read_text()
    assert f"KeyError: 'nothing'; raised by {__file__}, line" in log and "which is your code" in log


WRONG = {
    "one hook": ({"hooks": Recorder()}, "hooks must be a list of them, found "),
    "class": ({"hooks": Recorder}, "hooks must be a list of them, found "),
    "no hook": ({"hooks": [3]}, "hooks[0] must be a jaxdp.Hook or a function that makes one, found 3 (int)"),
    "no writer": ({"writers": [3]}, "writers[0] must be a metrics writer or a function that opens one, found 3 (int)"),
    "makes no hook": (
        {"hooks": [lambda info: 3]},
        "a hook must be a jaxdp.Hook, or a function that returns one, found 3 (int)",
    ),
    "opens no writer": (
        {"writers": [lambda info: 3]},
        "a metrics writer must have write(step, values) and close(), found 3 (int)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_hooks_and_writers_are_one_sentence(case, config_file, tmp_path):
    options, fragment = WRONG[case]
    with pytest.raises(UserError) as error:
        run(config_file, tmp_path, **options)
    assert fragment in str(error.value)
