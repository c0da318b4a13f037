"""Paths given by a user."""

import pytest

from jaxdp.errors import UserError
from jaxdp.paths import local_path, resolved_path


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/a/b", "--out") == tmp_path / "a" / "b"
    assert str(local_path("a~/b", "--out")) == "a~/b"


@pytest.mark.parametrize("path", ["gs://b/x", "S3://b", "file:///x", "hf+x.y://z"])
def test_urls_are_refused_and_named(path):
    with pytest.raises(UserError, match=rf"^--workdir={path.replace('+', '.')}: {path.partition('/')[0].replace('+', '.')}// is not supported here"):
        local_path(path, "--workdir")


@pytest.mark.parametrize("path", ["a:b", "c:/x", "://x", "1x://y"])
def test_a_colon_alone_makes_no_url(path):
    assert str(local_path(path, "--out")) in (path, path.replace("//", "/"))


def test_a_loop_of_links_is_one_sentence(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    try:
        assert resolved_path(tmp_path / "a" / "c", "--workdir").name == "c"  # Python 3.13 does not mind
    except UserError as error:
        assert "cannot be followed" in str(error)


def test_without_a_home_directory(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: (_ for _ in ()).throw(KeyError(number)))
    with pytest.raises(UserError, match=r"^--config=~/x: no home directory is known for ~; set HOME"):
        local_path("~/x", "--config")
