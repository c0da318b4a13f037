"""Paths given by a user."""

from pathlib import Path

import pytest

from jaxdp.errors import UserError
from jaxdp.paths import check_unicode, local_path, resolved_path


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/a/b", "--out") == tmp_path / "a" / "b"
    assert str(local_path("a~/b", "--out")) == "a~/b"


@pytest.mark.parametrize("path", ["gs://b/x", "S3://b", "file:///x", "hf+x.y://z"])
def test_urls_are_refused_and_named(path):
    with pytest.raises(
        UserError,
        match=rf"^--workdir={path.replace('+', '.')}: {path.partition('/')[0].replace('+', '.')}// is not supported here",
    ):
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


@pytest.mark.parametrize("name", [b"w\xc3\xbc", b"run\xff", b"a\xed\xa0\x80/b"])
def test_a_name_that_the_locale_cannot_decode_is_refused_and_escaped(name):
    """As the C locale and stray bytes give it to Python: with surrogates, for which TensorStore has no encoding."""
    path = Path("/runs") / name.decode("ascii", "surrogateescape")
    with pytest.raises(
        UserError,
        match=r"^--workdir=/runs/[ -~]+ is not valid text in the encoding of file names, [a-z0-9-]+: set PYTHONUTF8=1",
    ) as told:
        check_unicode(path, "--workdir")
    str(told.value).encode("ascii")


def test_names_of_every_script_are_valid():
    check_unicode(Path("/runs/\u043f\u00fc\u4e2d\U0001f600"), "--workdir")
