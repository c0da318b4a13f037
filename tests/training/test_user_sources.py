"""Source files of the user, which all processes of a run must have in the same version."""

import importlib
import sys

import pytest

import jaxdp
from jaxdp import arguments
from jaxdp.config_file import run_config_file
from jaxdp.training.user_sources import user_sources

HELPER = "SCALE = {scale}\n"
MODULE = """
import jaxdp
import {helper}


class Own(jaxdp.Hook):
    def on_dispatch(self, step, state):
        self.scale = {helper}.SCALE
"""


@pytest.fixture(autouse=True)
def no_registrations(monkeypatch):
    monkeypatch.setattr(arguments, "REGISTERED", {})
    monkeypatch.setattr("jaxdp.training.user_sources.REGISTERED", {})


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that imports another, and imports it."""

    def make(name, scale=1, comment=""):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "own_helper.py").write_text(HELPER.format(scale=scale))
        (folder / "own_part.py").write_text(comment + MODULE.format(helper="own_helper"))
        monkeypatch.syspath_prepend(folder)
        for each in ("own_part", "own_helper"):
            sys.modules.pop(each, None)
        return importlib.import_module("own_part")

    yield make
    for each in ("own_part", "own_helper"):
        sys.modules.pop(each, None)


def test_a_file_that_a_part_imports_counts_and_a_comment_does_not(module):
    first = user_sources([module("one").Own()])
    assert first.keys() == {"source of own_part.py", "source of own_helper.py"}
    assert user_sources([module("two", comment="# another comment\n").Own]) == first
    other = user_sources([module("three", scale=2).Own])
    assert {name for name in first if other[name] != first[name]} == {"source of own_helper.py"}


def test_parts_of_jaxdp_and_of_packages_do_not_count():
    assert user_sources([jaxdp.Hook, print, importlib.import_module, object()]) == {}


def test_what_a_configuration_file_registers_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdp.training.user_sources.REGISTERED", arguments.REGISTERED)
    monkeypatch.setattr("jaxdp.hooks.registry.HOOKS", {})
    path = tmp_path / "config.py"
    path.write_text(
        "import jaxdp\nfrom jaxdp import defaults\n\n\ndef make(info):\n    return None\n\n\n"
        "jaxdp.register_hook('own', make)\njaxdp.register_writer('own', make)\n\n\n"
        "def get_config():\n    config = defaults.get_config()\n    config.data.source = 'stdlib'\n"
        "    config.total_steps = 3\n    return config\n"
    )
    monkeypatch.setattr("jaxdp.report.writer_registry.WRITERS", {})
    run_config_file(path)
    assert user_sources().keys() == {"source of config.py"}
    assert list(arguments.REGISTERED) == [("hook", "own")]
