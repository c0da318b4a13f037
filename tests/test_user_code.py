"""Exceptions of a user's code are distinguished from those of jaxdp and shown with their traceback."""

import concurrent.futures
import json
import runpy
import sys

import jax
import jax.numpy as jnp
import pytest
from tiny_runs import train, write_text

from jaxdp.cli.main import main
from jaxdp.config import load_config
from jaxdp.errors import UserCodeError
from jaxdp.trees import named_leaves
from jaxdp.user_code import Place, user_fault, user_place, user_sentence, user_traceback


def caught(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_innermost_line_outside_jaxdp_and_packages_is_named():
    def theirs():
        json.loads("{")

    place = user_place(caught(theirs))
    assert (place.file, place.function) == (__file__, "theirs")
    assert str(place) == f"{__file__}, line {place.line} (theirs)"


def test_an_error_of_jaxdp_alone_is_not_theirs():
    error = caught(named_leaves, 3, 4)
    error.__traceback__ = None  # as if main had called it
    assert user_place(error) is None
    inner = caught(lambda: named_leaves(iter(())).broken)
    inner.__traceback__ = inner.__traceback__.tb_next.tb_next
    assert user_place(inner) is None


def test_an_error_while_jax_traces_is_of_the_function_that_it_traces():
    def mine(x):
        return x @ jnp.zeros((5,))

    place = user_place(caught(jax.jit(mine), jnp.zeros((2, 3))))
    assert (place.file, place.function) == (__file__, "mine")


def test_an_error_in_a_worker_is_read_from_its_text(tmp_path, monkeypatch):
    (tmp_path / "work_of_a_user.py").write_text("def work(x):\n    return 1 / x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import work_of_a_user

    with concurrent.futures.ProcessPoolExecutor(1, __import__("multiprocessing").get_context("spawn")) as pool:
        error = caught(pool.submit(work_of_a_user.work, 0).result)
    error.__traceback__ = None
    place = user_place(error)
    assert (place.file, place.line, place.function) == (str(tmp_path / "work_of_a_user.py"), 2, "work")
    assert "return 1 / x" in user_traceback(error)


def test_the_cause_of_an_error_may_be_theirs(tmp_path):
    (tmp_path / "raises.py").write_text("x = {}\nx['key']\n")
    cause = caught(runpy.run_path, str(tmp_path / "raises.py"))
    error = RuntimeError("of jaxdp")
    error.__cause__ = cause
    cause.__traceback__ = cause.__traceback__.tb_next  # without this test's own frame
    place = user_place(error)
    assert str(place) == f"{tmp_path / 'raises.py'}, line 2"
    assert user_sentence(cause, place).startswith(
        f"KeyError: 'key'; raised by {place}, which is your code and not a part of jaxdp"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import os\n\n\nos.no_such_function()\n", 4),
        ("def get_config(:\n", 1),
        ("def get_config():\n    return 1 / 0\n", 2),
    ],
)
def test_a_configuration_file_that_raises_shows_its_traceback(text, line, tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UserCodeError):
        load_config(str(path))
    assert main(["train", f"--config={path}", f"--workdir={tmp_path / 'run'}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f'File "{path}", line {line}' in err and "/jaxdp/" not in err
    assert err.splitlines()[-1].startswith(f"jaxdp: --config={path} does not load: ")


SENTENCES = {
    "short": ("nothing.", "nothing"),
    "lines": ("The function failed (see\nthe manual", "The function failed (see the manual"),
    "second": ("One sentence. " + "x" * 300, "One sentence"),
    "long": ("word " * 100, " word ..."),
    "one word": ("x" * 400, "x" * 300 + " ..."),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_the_message_of_an_exception_ends_with_a_sentence(case):
    text, end = SENTENCES[case]
    found = user_fault(ValueError(text), Place("mine.py", 3, "f"))
    what, _, rest = found.rpartition("; raised by ")
    assert what.endswith(end) and what.startswith("ValueError: ") and len(what) <= 320
    assert rest == "mine.py, line 3 (f), which is your code and not a part of jaxdp"


def test_the_message_of_a_tracer_error_is_whole_sentences():
    def mine(x):
        return float(x) + x

    error = caught(jax.jit(mine), jnp.ones(()))
    what = user_fault(error, user_place(error)).rpartition("; raised by ")[0]
    assert what.startswith("ConcretizationTypeError: ") and what.count("(") == what.count(")") and "..." not in what


TASK = """
import jaxdp
from jaxdp.tasks import CausalLM


class Broken(CausalLM):
    def {method}(self, *arguments):
        return {{}}["nothing"]


jaxdp.register_task("broken", Broken)
"""

CONFIG = """
from jaxdp import defaults

import own_task


def get_config():
    config = defaults.get_config()
    config.task = "broken"
    config.total_steps = 1
    config.global_batch_size = 8
    config.data.source = "text"
    config.data.path = {text!r}
    config.data.length = 16
    config.model.num_layers = 1
    config.model.num_heads = 2
    config.model.embed_dim = 16
    return config
"""


@pytest.mark.parametrize("method", ["__init__", "prepare", "make_batch", "loss", "derived_metrics"])
def test_a_task_that_raises_shows_its_traceback(method, tmp_path, capsys, monkeypatch):
    """From the main process, from the thread that reads ahead and while JAX traces."""
    write_text(tmp_path / "text.txt")
    path = tmp_path / "own_task.py"
    path.write_text(TASK.format(method=method))
    (tmp_path / "config.py").write_text(CONFIG.format(text=str(tmp_path / "text.txt")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_task", raising=False)
    assert train(tmp_path / "config.py", tmp_path / "run", "--cpu_devices=8") == 2
    err = capsys.readouterr().err
    assert f'File "{path}", line 8, in {method}' in err and "KeyError: 'nothing'" in err
    sentence = (
        f"KeyError: 'nothing'; raised by {path}, line 8 ({method}), which is your code and not a part of jaxdp: "
        "its traceback is above."
    )
    assert err.splitlines()[-1] == f"jaxdp: {sentence}"
    log = (tmp_path / "run" / "logs" / "process_0.log").read_text()
    assert sentence in log and "KeyError: 'nothing'\n" in log
