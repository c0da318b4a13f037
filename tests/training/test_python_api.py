"""The Python API called as no command is: many calls in a process, from threads and workers, with wrong arguments."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from tiers import others_slow
from tiny_runs import environment, load, metrics_lines

import jaxdp
from jaxdp import defaults
from jaxdp.decoding.beam import BeamSearch
from jaxdp.decoding.sampling import Sampling
from jaxdp.errors import UserError

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report(config_file, trained, compilation_cache, tmp_path_factory):
    """What became of the calls of `api_calls.py`."""
    done = subprocess.run(
        [sys.executable, TESTS / "api_calls.py", config_file, trained, tmp_path_factory.mktemp("api")],
        env=environment(compilation_cache, JAX_PLATFORMS="cpu"), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}


EXPECTED = {
    "generate one": "1",
    "generate two": "2",
    "devices": "1",  # what the first call needed
    "evaluate": "['eval/accuracy']",
    "train": "Result(step=2, request=0, interrupted=False)",
    "generate after train": "3",
    "train again": "Result(step=2, request=0, interrupted=False)",
    "continue": "Result(step=3, request=0, interrupted=False)",
    "load a model": "True",
    "evaluate a model": "True",
    "load": "2",
    "same devices": "1",
    "train in a thread": "Result(step=2, request=0, interrupted=False)",
    "generate in a thread": "1",
    "load in a thread": "1",
    "a model in a thread": "1",
}


@pytest.mark.parametrize("call", EXPECTED)
def test_calls_in_any_order_use_the_devices_that_exist(report, call):
    assert report[call] == {"result": EXPECTED[call]}, report[call].get("trace")


def test_what_cannot_be_done_any_more_is_told_in_a_sentence(report):
    assert (
        report["other devices"]["error"]
        == report["no data"]["error"]
        == report["two durations"]["error"]
        == "UserError"
    )
    assert "nowhere.txt" in report["no data"]["text"]
    assert "cpu_devices=3 " in report["other devices"]["text"]
    assert "JAX has already started in this process with 1 x cpu" in report["other devices"]["text"]
    assert (
        "the configuration gives total_steps and total_epochs; set the others to None"
        in report["two durations"]["text"]
    )


def test_a_thread_trains_without_signals_and_says_so_once(report):
    assert report["stderr"].count("training outside the main thread") == 1


def test_calls_leave_handlers_and_hooks_as_they_were(report):
    assert report["state"]["before"] == report["state"]["after"]


UNGUARDED = """
import jaxdp
config = jaxdp.load_config({config!r}, ["--config.data.num_workers=1", "--config.data.tokenizer=bpe:300"])
jaxdp.train(config, {workdir!r})
"""


def test_a_script_without_a_main_guard_is_told_of_it(config_file, compilation_cache, tmp_path):
    """Its workers import it, and would train too, or wait for the lock of the one that waits for them."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(config=str(config_file), workdir=str(tmp_path / "run")))
    variables = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, script],
        env=environment(compilation_cache, **variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert (
        'jaxdp.train is called again by a worker process that imports your script: put the call under `if __name__ == "__main__":`'
        in done.stderr
    )
    assert (
        done.stderr.rstrip()
        .splitlines()[-1]
        .startswith("jaxdp.errors.UserError: the workers that tokenize ended while they started")
    )


UNGUARDED_COMMAND = """
import sys
from jaxdp.cli.main import main
sys.exit(main([{command!r}, *{arguments!r}, "--config={config}", "--config.data.num_workers=1", "--config.data.tokenizer=bpe:300"]))
"""


@pytest.mark.parametrize(
    "arguments", [pytest.param([], marks=pytest.mark.slow), ["--dry_run"]], ids=["prepare", "dry_run"]
)  # the guard itself: the script above
def test_a_command_called_without_a_main_guard_does_not_wait_for_itself(
    config_file, compilation_cache, tmp_path, arguments
):
    """Its workers import the script, and would wait for the cache lock of the process that waits for them."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED_COMMAND.format(command="prepare", arguments=arguments, config=config_file))
    variables = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, script],
        env=environment(compilation_cache, **variables),
        capture_output=True,
        text=True,
        timeout=100,
    )
    if arguments:  # starts no workers
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    assert (
        'is called again by a worker process that imports your script: put the call under `if __name__ == "__main__":`'
        in done.stderr
    )
    assert done.stderr.rstrip().splitlines()[-1].startswith("jaxdp: the workers that tokenize ended while they started")


def test_a_started_backend_serves_every_call(trained, config_file, tmp_path):
    """Here with eight devices, of which a batch of twelve rows takes six."""
    assert len(jaxdp.generate(trained, ["the of"], max_new_tokens=2)) == 1
    assert jaxdp.evaluate(trained)["step"] == 6
    overrides = ("global_batch_size=12", "total_steps=1", "eval.every_steps=0", "parallel.cpu_devices=None")
    config = jaxdp.load_config(config_file, [f"--config.{override}" for override in overrides])
    assert jaxdp.train(FrozenConfigDict(config), tmp_path / "run").step == 1
    assert "12 sequences = 6 devices x" in (tmp_path / "run" / "logs" / "process_0.log").read_text()


WRONG = {
    "workdir": (lambda run: jaxdp.generate(None, ["a"]), "--workdir must be a path (str or os.PathLike), found None"),
    "prompts": (lambda run: jaxdp.generate(run, 5), "prompts must be a string or a list of them, found 5 (int)"),
    "prompt": (lambda run: jaxdp.generate(run, ["a", None]), "prompts[1] must be a string, found None"),
    "bytes": (lambda run: jaxdp.generate(run, b"a"), "prompts must be a string or a list of them, found b'a' (bytes)"),
    "mapping": (lambda run: jaxdp.generate(run, {"a": 1}), "prompts must be a string or a list of them"),
    "new tokens": (lambda run: jaxdp.generate(run, "a", max_new_tokens=2.5), "max_new_tokens must be a whole number, found 2.5 (float)"),
    "samples": (lambda run: jaxdp.generate(run, "a", num_samples="3"), "num_samples must be a whole number, found '3' (str)"),
    "seed": (lambda run: jaxdp.generate(run, "a", seed=None), "seed must be a whole number, found None"),
    "strategy": (lambda run: jaxdp.generate(run, "a", strategy="greedy"), "strategy must be a Sampling or a BeamSearch, found 'greedy'"),
    "searched samples": (lambda run: jaxdp.generate(run, "a", strategy=BeamSearch(2), num_samples=2), "BeamSearch(num_returned=...)"),
    "temperature": (lambda run: Sampling("hot"), "temperature must be a number, found 'hot' (str)"),
    "top_k": (lambda run: Sampling(top_k=2.5), "top_k must be a whole number, found 2.5 (float)"),
    "beams": (lambda run: BeamSearch("4"), "num_beams must be a whole number, found '4' (str)"),
    "step": (lambda run: jaxdp.generate(run, "a", step=1.5), "step ('latest', 'best' or a number) must be a whole number, found 1.5"),
    "devices": (lambda run: jaxdp.generate(run, "a", cpu_devices=True), "cpu_devices must be a whole number, found True (bool)"),
    "split": (lambda run: jaxdp.evaluate(run, split="validation"), "split must be one of 'train', 'eval'"),
    "no batches": (lambda run: jaxdp.evaluate(run, num_batches=-1), "num_batches=-1 must be at least 1"),
    "huge": (lambda run: jaxdp.generate(run, 10**5000), "found a whole number of 16610 bits (int)"),
    "weights": (lambda run: jaxdp.evaluate(run, weights="best"), "weights must be one of 'ema', 'raw', found 'best'"),
    "records": (lambda run: jaxdp.predict(run, 7), "records must be a string or a mapping of columns or a list of them, found 7"),
    "record": (lambda run: jaxdp.predict(run, [{}, 7]), "records[1] must be a string or a mapping of columns, found 7"),
    "candidates": (lambda run: jaxdp.predict(run, "a", num_candidates="all"), "num_candidates must be a whole number"),
    "checkpoint": (lambda run: jaxdp.load_checkpoint(3), "must be a path (str or os.PathLike), found 3 (int)"),
    "model": (lambda run: jaxdp.load(3), "path must be a path (str or os.PathLike), found 3 (int)"),
    "weights of a model": (lambda run: jaxdp.load(run, weights="best"), "weights must be one of 'ema', 'raw', found 'best'"),
    "step of a model": (lambda run: jaxdp.load(run, step=1.5), "step ('latest', 'best' or a number) must be a whole number, found 1.5"),
    "devices of a model": (lambda run: jaxdp.load(run, cpu_devices="2"), "cpu_devices must be a whole number, found '2' (str)"),
    "loaded weights": (lambda run: jaxdp.load_checkpoint(run, weights=None), "weights must be one of 'ema', 'raw', found None"),
    "file": (lambda run: jaxdp.load_config(None), "--config must be a path (str or os.PathLike), found None"),
    "overrides": (lambda run: jaxdp.load_config("quickstart", [("total_steps", 3)]), "overrides must be strings such as '--config.total_steps=10'"),
    "config": (lambda run: jaxdp.train("quickstart", run), "config must be a ConfigDict from jaxdp.load_config() or jaxdp.defaults.get_config(), or a dict of keys that differ from the defaults, found str"),
    "empty config": (lambda run: jaxdp.train(ConfigDict(), run), "config lacks causal_lm, checkpoint, classification and more; begin with jaxdp.defaults.get_config()"),
    "profile": (lambda run: jaxdp.train(made(), run, profile=(1, 2)), "profile must be a jaxdp.training.run_context.Profile or None, found (1, 2)"),
    "processes": (lambda run: jaxdp.train(made(), run, processes=2), "processes must be a jaxdp.parallel.processes.Processes or None, found 2"),
    "task name": (lambda run: jaxdp.register_task(3, jaxdp.Task), "the name of a task must be a string, found 3"),
    "task factory": (lambda run: jaxdp.register_task("mine", "factory"), "must be a class or function that makes a task from TaskInputs, found 'factory'"),
}  # fmt: skip


def made(**changes):
    """A configuration built in Python, with changes that no type is checked for."""
    config = defaults.get_config().unlock()
    config.total_steps = 3
    with config.ignore_type():
        for key, value in changes.items():
            *groups, last = key.split("__")
            group = config
            for name in groups:
                group = group[name]
            group[last] = value
    return config


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_one_sentence(case, trained):
    call, fragment = WRONG[case]
    with pytest.raises(UserError) as error:
        call(str(trained))
    assert fragment in str(error.value)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"total_epochs": 1.0}, "exactly one of total_steps, total_epochs, total_tokens must be set"),
        ({"total_steps": None}, "none is given"),
        ({"total_steps": 0}, "total_steps=0 must be above 0 and finite"),
        ({"total_steps": 3.0}, "total_steps=3.0 must be a whole number"),
        ({"total_steps": True}, "total_steps=True must be a whole number"),
        ({"global_batch_size": "4"}, "global_batch_size='4' must be a whole number"),
        ({"data__length": None}, "data.length=None must be a whole number"),
        ({"optim__learning_rate": "fast"}, "optim.learning_rate='fast' must be a number"),
        ({"optim__lr": 0.1}, "config has an unknown key 'optim.lr'; did you mean 'optim.learning_rate'?"),
        ({"sead": 1}, "config has an unknown key 'sead'; did you mean 'seed'?"),
        ({"seed": -1}, "seed=-1 must be from 0 to 2**32 - 1"),
        ({"eval__patience": 2, "eval__every_steps": 0}, "eval.patience=2 counts evaluations"),
        ({"model": 3}, "config lacks model.activation, model.architecture, model.attention and more"),
    ],
)
def test_a_configuration_made_in_python_is_checked(changes, fragment, tmp_path):
    with pytest.raises(UserError) as error:
        jaxdp.train(made(**changes), tmp_path / "run")
    assert fragment in str(error.value)
    assert not (tmp_path / "run").exists()


def test_no_prompt_needs_no_model(trained):
    assert jaxdp.generate(trained, []) == []


SETTINGS = {
    "x64": lambda: jax.enable_x64(True),
    "strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "another generator": lambda: jax.default_prng_impl("rbg"),
    "another order of random bits": lambda: jax.threefry_partitionable(False),
}


@pytest.mark.parametrize("setting", others_slow(SETTINGS, "x64"))
def test_settings_of_jax_change_no_number(setting, trained, config_file, tmp_path):
    """Neither of a run, nor of one that continues it, nor of what it generates."""
    run, losses = tmp_path / "run", []
    with SETTINGS[setting]():
        for _ in ("new", "continued"):
            jaxdp.train(load(config_file), run)
            losses.append([line["train/loss"] for line in metrics_lines(run)])
            samples = jaxdp.generate(run, ["the of"], max_new_tokens=4, seed=3)
            shutil.rmtree(run / "checkpoints" / "6")
    assert samples == jaxdp.generate(trained, ["the of"], max_new_tokens=4, seed=3)
    expected = [line["train/loss"] for line in metrics_lines(trained)]
    assert losses == [expected, expected] and len(expected) == 6


@pytest.mark.parametrize("guard", ["disallow", "disallow_explicit"])
def test_a_guard_against_transfers_is_told_to_be_in_the_way(guard, trained):
    with jax.transfer_guard(guard), pytest.raises(UserError, match=f"JAX_TRANSFER_GUARD.*={guard} "):
        jaxdp.generate(trained, ["the of"])
