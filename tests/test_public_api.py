"""`import jaxdp`: quick, without jax, and every public name is there."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdp


def test_every_public_name_is_there():
    assert set(jaxdp.__all__) >= {
        "load_config", "train", "load", "LoadedModel", "evaluate", "generate", "predict", "load_checkpoint", "Transformer",
        "TransformerConfig", "init_params", "Sampling", "BeamSearch", "Task", "register_task",
    }  # fmt: skip
    for name in jaxdp.__all__:
        assert getattr(jaxdp, name).__doc__, name
    assert set(jaxdp.__all__) <= set(dir(jaxdp))


def test_type_checkers_see_the_exports_that_exist():
    """The imports under TYPE_CHECKING are those that `__getattr__` makes, and the package says that it is typed."""
    path = Path(jaxdp.__file__)
    [block] = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    declared = {
        name.asname: (node.module, name.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert declared == jaxdp._EXPORTS
    assert path.with_name("py.typed").exists()


def test_help_shows_every_export():
    assert {name for name, _ in inspect.getmembers(jaxdp)} >= set(jaxdp.__all__)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="module 'jaxdp' has no attribute 'trian'"):
        _ = jaxdp.trian
    with pytest.raises(ImportError):
        importlib.import_module("jaxdp.trian")


def test_import_starts_nothing():
    code = "import sys, jaxdp; assert not {'jax', 'flax', 'orbax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
