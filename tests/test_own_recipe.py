"""A configuration file that imports modules next to it: a task, an optimizer and a hook in files of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import compilation_cache, config_file, environment, metrics_lines

from jaxdp.cli.main import main
from jaxdp.config import load_config
from jaxdp.config_file import run_config_file
from jaxdp.errors import UserCodeError, UserError
from jaxdp.hooks import registry as hook_registry
from jaxdp.optim import registry as optim_registry
from jaxdp.tasks import task as task_registry

__all__ = ["compilation_cache", "config_file"]

TASK = """
import jaxdp
from jaxdp.tasks import CausalLM


class Upper(CausalLM):
    def prepare(self, record, tokenizer):
        return super().prepare({name: value.upper() for name, value in record.items()}, tokenizer)


jaxdp.register_task("upper", Upper)
"""

HOOK = """
import jaxdp
import optax


class Print(jaxdp.Hook):
    def __init__(self, run):
        pass

    def on_step(self, info):
        print("my hook, step", info.step)


jaxdp.register_hook("print", Print)
jaxdp.register_optimizer("sign", lambda config: optax.scale_by_sign())
"""

ADDED = """
import {task}
import {hook}

_get_config = get_config


def get_config():
    config = _get_config()
    config.task = "upper"
    config.optim.name = "sign"
    config.total_steps = 2
    config.data.tokenizer = "bpe:300"
    return config
"""


@pytest.fixture
def recipe(config_file, tmp_path):
    """A folder with config.py, my_upper_task.py and my_print_hook.py."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_upper_task.py").write_text(TASK)
    (folder / "my_print_hook.py").write_text(HOOK)
    text = config_file.read_text() + ADDED.format(task="my_upper_task", hook="my_print_hook")
    (folder / "config.py").write_text(text)
    return folder / "config.py"


def jaxdp_command(cache, tmp_path, *arguments):
    """A command in a process of its own, from another folder."""
    variables = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "jaxdp", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(cache, **variables), cwd=tmp_path, capture_output=True, text=True, timeout=300
    )


def test_a_recipe_with_a_task_a_hook_and_an_optimizer_trains_with_workers(recipe, compilation_cache, tmp_path):
    """From another folder, with a relative path; the worker that tokenizes imports the task."""
    command = ("train", "--config=mine/config.py", "--workdir=run", "--config.data.num_workers=1")
    done = jaxdp_command(compilation_cache, tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "my hook, step 1\nmy hook, step 2\n"
    assert len(metrics_lines(tmp_path / "run")) == 2
    assert jaxdp_command(compilation_cache, tmp_path, *command).returncode == 0  # resumes: finished
    other = jaxdp_command(compilation_cache, tmp_path, "train", "--config=run/config.json", "--workdir=run")
    assert other.returncode == 2
    assert "task='upper' is unknown" in other.stderr and "give --config the file that imports it" in other.stderr


def test_the_folder_of_a_configuration_file_is_last_on_the_path(recipe):
    before = list(sys.path)
    run_config_file(recipe)
    assert sys.path == [*before, str(recipe.parent)]
    run_config_file(recipe)
    assert sys.path == [*before, str(recipe.parent)]


@pytest.fixture(autouse=True)
def path_modules_and_registries_are_restored(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    tables = (hook_registry.HOOKS, optim_registry.DIRECTIONS, task_registry._FACTORIES)
    before, registered = set(sys.modules), [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, registered, strict=True):
        table.clear()
        table.update(entries)
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def test_a_module_of_the_same_name_from_another_folder_is_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my_settings.py").write_text(f"NAME = {folder!r}\n")
        text = (
            "from jaxdp import defaults\nimport my_settings\n\n\ndef get_config():\n    return defaults.get_config()\n"
        )
        (tmp_path / folder / "config.py").write_text(text)
    run_config_file(tmp_path / "a" / "config.py")
    with pytest.raises(
        UserError, match=r"imports my_settings, but this process has imported .*a/my_settings.py under that name before"
    ):
        run_config_file(tmp_path / "b" / "config.py")


@pytest.mark.parametrize(
    ("text", "line", "error"), [("import os\n\nos.nothing()\n", 3, "AttributeError"), ("def f(:\n", 1, "SyntaxError")]
)
def test_an_error_in_an_imported_module_names_it(text, line, error, tmp_path, capsys):
    (tmp_path / "my_broken.py").write_text(text)
    config = tmp_path / "config.py"
    config.write_text("\nimport my_broken\n")
    with pytest.raises(UserCodeError):
        load_config(str(config))
    assert main(["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 2
    err = capsys.readouterr().err
    assert f'File "{tmp_path / "my_broken.py"}", line {line}' in err
    assert (
        f"does not load: {error} in line 2, raised by {tmp_path / 'my_broken.py'}, line {line}" in err.splitlines()[-1]
    )
