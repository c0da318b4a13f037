import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from jaxdp.data.tokenizers import check_tokenizer_name, load_tokenizer, make_tokenizer
from jaxdp.errors import UserError


def no_texts():
    raise AssertionError("the data were read")
    yield


@pytest.mark.parametrize("name", ["", "bpf:100", "Byte", "byte:3", "tokenizer.txt", "gpt2"])
def test_unknown_kind(name):
    for call in (check_tokenizer_name, lambda name: make_tokenizer(name, no_texts())):
        with pytest.raises(UserError, match=rf"data\.tokenizer='{name}' is unknown: expected byte, char, bpe:N"):
            call(name)


@pytest.mark.parametrize("size", ["", ":", ":abc", ":-5", ":1.5", ":0", ":²", ":1e3", ":1000001", ":5:5"])
def test_no_vocabulary_size(size):
    for call in (check_tokenizer_name, lambda name: make_tokenizer(name, no_texts())):
        with pytest.raises(UserError, match=rf"'bpe{size}' has no vocabulary size: expected bpe:N .* bpe:8000"):
            call(f"bpe{size}")


def test_known_names():
    for name in ("byte", "char", "bpe:8000", "wordpiece:1000000", "unigram:1", "hf:gpt2", "folder/a.json"):
        check_tokenizer_name(name)


def test_size_that_no_data_can_mend_is_refused_before_they_are_read():
    for kind in ("bpe", "unigram"):
        with pytest.raises(UserError, match=f"{kind}:256 is too small .* expected {kind}:258 or more"):
            make_tokenizer(f"{kind}:256", no_texts(), ("[MASK]",))


def test_files_that_are_no_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    for call in (load_tokenizer, lambda path: make_tokenizer(str(path), no_texts())):
        path.unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"tokenizer\.json cannot be read \(No such file.*expected a tok"):
            call(path)
        for content in ("", "[]", "{}", '{"model": {"vocab": ["a"], "merges": []}}', '{"a": 1}'):
            path.write_text(content)
            with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer\.json: "):
                call(path)
        path.write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match="it is not UTF-8"):
            call(path)


def test_path_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_tokenizer("byte", []).save(tmp_path / "bytes.json")
    assert make_tokenizer("~/bytes.json", no_texts(), ("[MASK]",)).vocab_size == 258


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache, and a Hub that any request fails the test of."""

    def asked(*_, **__):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", asked)
    return tmp_path


@pytest.mark.parametrize("name", ["", "a/b/c", "../gpt2", "a b"])
def test_no_name_of_a_model(hub, name):
    with pytest.raises(UserError, match=r"no name of a model.*this machine is given by its path alone"):
        make_tokenizer(f"hf:{name}", no_texts())


def test_model_in_the_cache_needs_no_network(hub):
    folder = hub / "models--some--model"
    (folder / "snapshots" / "1f").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1f")
    make_tokenizer("byte", []).save(folder / "snapshots" / "1f" / "tokenizer.json")
    assert make_tokenizer("hf:some/model", no_texts(), ("[MASK]",)).special_id("[MASK]") == 257
    shutil.rmtree(folder)


def test_no_way_to_the_hub(hub, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(
        UserError,
        match=r"hf:some/model is not in the local cache.*cannot be reached \(ConnectionError: no route\)"
        r".*data\.tokenizer=PATH/tokenizer\.json",
    ):
        make_tokenizer("hf:some/model", no_texts())


def test_model_that_the_hub_does_not_have(hub, monkeypatch):
    class Missing(errors.HfHubHTTPError):
        def __init__(self):
            OSError.__init__(self)

    def answers(*_, **__):
        raise Missing

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answers)
    with pytest.raises(UserError, match=r"the Hub has no tokenizer\.json of that model for you \(Missing\)"):
        make_tokenizer("hf:some/model", no_texts())
