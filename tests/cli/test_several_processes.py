"""`jaxdp train` as two real processes over loopback: what stops one, and what the other makes of it.

Each start costs seconds, so there are few. JAX and gloo, below, speak on both
streams, so stdout is not looked at.
"""

import re
import signal
import time

import pytest
from tiny_processes import free_address
from tiny_runs import environment, metrics_lines, start, start_with

LONG = [
    "--config.total_steps=100000", "--config.optim.schedule=constant", "--config.eval.every_steps=0",
    "--config.checkpoint.every_steps=0", "--config.microbatch_size=4", "--cpu_devices=2",
]  # fmt: skip


def start_two(config_file, cache, workdir, *options, own=((), ()), own_env=({}, {})):
    """Both processes; `own` are options that only one is given. Without optimisation they compile faster."""
    address = free_address()
    variables = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return [
        start(
            "train", f"--config={config_file}", f"--workdir={workdir}", *LONG, *options, *own[index],
            f"--coordinator={address}", "--num_processes=2", f"--process_index={index}",
            env=environment(cache, **variables, **own_env[index]),
        )
        for index in range(2)
    ]  # fmt: skip


def wait_for(condition, *processes, secs=120.0):
    end = time.monotonic() + secs
    while not condition():
        if any(process.poll() is not None for process in processes) or time.monotonic() > end:
            for process in processes:
                process.kill()
            pytest.fail(
                "\n".join(f"exit code {process.returncode}: {process.communicate()[1]}" for process in processes)
            )
        time.sleep(0.01)


def steps_done(workdir):
    return len(metrics_lines(workdir)) if (workdir / "metrics.jsonl").is_file() else 0


def test_processes_that_train_different_things_do_not_start(config_file, compilation_cache, tmp_path):
    processes = start_two(config_file, compilation_cache, tmp_path, own=((), ("--config.optim.learning_rate=0.5",)))
    for index, process in enumerate(processes):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert "jaxdp: the 2 processes of this run do not agree:\n  optim.learning_rate: 0.001 in process 0 on " in err
        assert ", 0.5 in process 1 on " in err and "Traceback" not in err
        assert "do not agree" in (tmp_path / "logs" / f"process_{index}.log").read_text()
    assert not (tmp_path / "checkpoints").exists()


def test_sigterm_to_one_of_two_stops_both_after_the_same_step(config_file, compilation_cache, tmp_path):
    processes = start_two(config_file, compilation_cache, tmp_path)
    wait_for(lambda: steps_done(tmp_path) > 2, *processes)
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], said
    assert "SIGTERM" in said[1] and "SIGTERM" not in said[0]
    stops = [re.search(r"stopped after step (\d+) of 100000; the same command continues", text)[1] for text in said]
    assert stops[0] == stops[1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [stops[0]]
    assert steps_done(tmp_path) == int(stops[0])


@pytest.mark.slow  # while both save: test_sharded_processes.py
def test_the_death_of_one_of_two_ends_the_other(config_file, compilation_cache, tmp_path):
    processes = start_two(config_file, compilation_cache, tmp_path)
    wait_for(lambda: steps_done(tmp_path) > 2, *processes)
    processes[1].kill()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [70, -signal.SIGKILL], said
    assert re.search(r"jaxdp: process 1 on \S+ is gone; this one stops too\.", said[0]), said[0]
    assert "is gone" in (tmp_path / "logs" / "process_0.log").read_text()


OWN_HOOK = """
import os
from pathlib import Path

import jaxdp


class Own(jaxdp.Hook):
    def __init__(self, info):
        self.workdir, self.process, self.steps = info.workdir, int(os.environ["OWN_PROCESS"]), 0

    def request(self):
        asks = (self.workdir / "ask").exists() and self.process == 1
        return jaxdp.Request.TERMINATE if asks else jaxdp.Request.NONE

    def on_step(self, info):
        self.steps += 1
        (self.workdir / f"own_{self.process}").write_text(str(self.steps))
        if self.process == 1 and (self.workdir / "fail").exists():
            raise ZeroDivisionError("of my own")


jaxdp.register_hook("own", Own)
"""


def start_two_with_own_hook(config_file, cache, folder, workdir):
    """Both processes of a recipe that imports a hook from its own folder."""
    (folder / "own_hook_of_two.py").write_text(OWN_HOOK)
    recipe = folder / "recipe.py"
    recipe.write_text("import own_hook_of_two\n" + config_file.read_text())
    return start_two(recipe, cache, workdir, own_env=[{"OWN_PROCESS": str(index)} for index in range(2)])


@pytest.mark.slow  # a request, here SIGTERM's, stops both above
def test_a_request_of_a_hook_of_the_users_own_stops_both(config_file, compilation_cache, tmp_path):
    workdir = tmp_path / "run"
    processes = start_two_with_own_hook(config_file, compilation_cache, tmp_path, workdir)
    wait_for(lambda: all((workdir / f"own_{index}").is_file() for index in range(2)), *processes)
    (workdir / "ask").touch()
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], said
    stops = [re.search(r"stopped after step (\d+) of 100000; the same command continues", text)[1] for text in said]
    assert stops[0] == stops[1] == (workdir / "own_0").read_text() == (workdir / "own_1").read_text()


@pytest.mark.slow  # what both say: tests/parallel/test_control_plane.py, tests/test_user_code.py
def test_an_error_of_a_hook_of_the_users_own_stops_both(config_file, compilation_cache, tmp_path):
    """Both name the process and the user's file."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "fail").touch()
    processes = start_two_with_own_hook(config_file, compilation_cache, tmp_path, workdir)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    fault = rf"ZeroDivisionError: of my own; raised by {tmp_path}/own_hook_of_two.py, line \d+ \(on_step\), which is your code "
    assert re.search(
        rf"jaxdp: process 1 on \S+ stopped: {fault}and not a part of jaxdp; this one stops too\.", said[0]
    ), said
    assert re.search(rf"Traceback .*jaxdp: {fault}and not a part of jaxdp\.", said[1], re.DOTALL), said
    assert "Traceback" not in said[0]


def test_a_signal_while_the_data_are_prepared_stops_at_once(config_file, compilation_cache, tmp_path):
    process = start_with(
        ["hang_in_preparation"], "train", f"--config={config_file}", f"--workdir={tmp_path}", *LONG,
        env=environment(compilation_cache),
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "logs" / "preparing").is_file(), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, "")
    # A signal that comes just before the main thread blocks does not wake it: then the thread that answers ends the process.
    first, last = err.splitlines()
    assert first == "SIGTERM: nothing is to be saved yet; stopping"
    assert last in ("stopped before step 1; the same command starts again", "SIGTERM: stopped")


@pytest.mark.slow
def test_a_signal_while_it_compiles_stops_within_seconds(config_file, compilation_cache, tmp_path):
    compiling = config_file.with_name("compiling")
    compiling.unlink(missing_ok=True)
    process = start_with(
        ["hold_up_compilation"], "train", f"--config={config_file}", f"--workdir={tmp_path}", *LONG,
        env=environment(compilation_cache),
    )  # fmt: skip
    wait_for(compiling.exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "SIGINT: nothing is to be saved yet; stopping\nSIGINT: stopped\n"
