"""`import jaxdp`: quick, without jax, and every public name is there."""

import importlib
import subprocess
import sys

import pytest

import jaxdp


def test_every_public_name_is_there():
    assert set(jaxdp.__all__) >= {
        "load_config", "train", "evaluate", "generate", "load_checkpoint", "Transformer", "TransformerConfig",
        "Task", "register_task",
    }  # fmt: skip
    for name in jaxdp.__all__:
        assert getattr(jaxdp, name).__doc__, name
    assert set(jaxdp.__all__) <= set(dir(jaxdp))


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="module 'jaxdp' has no attribute 'trian'"):
        _ = jaxdp.trian
    with pytest.raises(ImportError):
        importlib.import_module("jaxdp.trian")


def test_import_starts_nothing():
    code = "import sys, jaxdp; assert not {'jax', 'flax', 'orbax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
