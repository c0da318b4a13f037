"""Cache directories of users with and without a home directory that they can write."""

import os
import warnings

import jax
import pytest

from jaxdp import cache_home as module
from jaxdp.cache_home import cache_home, set_matplotlib_directory, why_unwritable
from jaxdp.errors import UserError
from jaxdp.parallel import devices


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Variables of a new user, whose temporary directory is the test's."""
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    module._cache_home.cache_clear()
    yield
    module._cache_home.cache_clear()


def test_the_usual_place_and_nothing_is_made_or_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    assert cache_home() == tmp_path / "ann" / ".cache" / "jaxdp"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_home() == tmp_path / "cache" / "jaxdp"
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("home", "why"), [("/dev/null/ann", "/dev/null is not a directory"), (None, "there is no home directory")]
)
def test_without_a_home_a_temporary_directory_of_the_user_is_reported_once(monkeypatch, tmp_path, capsys, home, why):
    if home:
        monkeypatch.setenv("HOME", home)
    else:  # as for a user that the system does not know
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    own = tmp_path / f"jaxdp-{os.getuid()}"
    assert cache_home() == cache_home() == own
    assert own.stat().st_mode & 0o777 == 0o700
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"cannot be written ({why}); prepared data and compiled programs go to {own}" in err


def test_a_directory_that_others_can_write_is_refused(monkeypatch, tmp_path):
    """Everybody may have made it: what is in it would be run and trained on."""
    own = tmp_path / f"jaxdp-{os.getuid()}"
    own.mkdir()
    own.chmod(0o777)
    monkeypatch.setenv("HOME", "/dev/null")
    with pytest.raises(UserError, match=r"others can write to it.*; set XDG_CACHE_HOME"):
        cache_home()
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(UserError, match="others can write to it"):
        cache_home()


def test_matplotlib_gets_a_directory_where_it_has_none(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    set_matplotlib_directory()
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("HOME", "/dev/null")
    set_matplotlib_directory()
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / f"jaxdp-{os.getuid()}" / "matplotlib")


def test_a_compilation_cache_that_cannot_be_written_is_reported_and_not_warned_of(monkeypatch, capsys):
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", "/dev/null/cache", raising=False)
    with warnings.catch_warnings(record=True) as caught:
        devices._configure_compilation_cache()
        warnings.warn("Error writing persistent compilation cache entry for 'jit_f': NotADirectoryError", stacklevel=1)
    assert caught == []
    assert (
        "JAX_COMPILATION_CACHE_DIR=/dev/null/cache cannot be written (/dev/null is not a directory)"
        in capsys.readouterr().err
    )


def test_why_a_directory_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert why_unwritable(str(tmp_path / "a" / "b")) == "" and not (tmp_path / "a").exists()
    assert why_unwritable(str(tmp_path / "file" / "b")) == f"{tmp_path / 'file'} is not a directory"
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert why_unwritable(str(tmp_path / "a")) == f"{tmp_path} is read-only for this user"
