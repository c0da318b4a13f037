import hashlib
import sysconfig
from pathlib import Path

import pytest

from jaxdp.data.sources import Document, fingerprint, read_documents, split_documents
from jaxdp.errors import UserError


def write(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture(scope="module")
def stdlib():
    return read_documents("stdlib", None, "strict")


def test_stdlib_is_plausible(stdlib):
    names = [document.origin for document in stdlib]
    assert 600 < len(names) < 900
    assert 9e6 < sum(len(document.text) for document in stdlib) < 16e6
    assert names == sorted(names) and len(set(names)) == len(names)
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert all(name.endswith(".py") and "\\" not in name for name in names)
    folders = {folder for name in names for folder in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}


def test_stdlib_text_is_the_files(stdlib):
    document = next(document for document in stdlib if document.origin == "json/decoder.py")
    file = Path(sysconfig.get_path("stdlib"), "json/decoder.py")
    assert document.text.encode() == file.read_bytes()


def test_stdlib_without_source(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match=r"no \.py files.*data\.source=text"):
        read_documents("stdlib", None, "strict")


def test_one_file_keeps_its_bytes(tmp_path):
    (tmp_path / "a.anything").write_bytes("ünï\r\ncode\n".encode())
    path = str(tmp_path / "a.anything")
    assert read_documents("text", path, "strict") == [Document("ünï\r\ncode\n", "a.anything")]


def test_folder_is_walked_sorted_and_without_hidden_or_empty(tmp_path):
    write(tmp_path, b_dot_txt=b"2", a__z_dot_md=b"1", c__d__e=b"3", empty_dot_txt=b"")
    write(tmp_path, _dot_hidden=b"x", _dot_git__config=b"x")
    documents = read_documents("text", str(tmp_path), "strict")
    expected = [Document("1", "a/z.md"), Document("2", "b.txt"), Document("3", "c/d/e")]
    assert documents == expected


@pytest.mark.parametrize(
    "pattern, expected",
    [("*.txt", ["a.txt"]), ("**/*.txt", ["a.txt", "d/b.txt"]), ("d/*", ["b.txt", "c.md"])],
)
def test_glob_names_are_relative_to_its_fixed_part(tmp_path, pattern, expected):
    write(tmp_path, a_dot_txt=b"1", d__b_dot_txt=b"2", d__c_dot_md=b"3")
    documents = read_documents("text", f"{tmp_path}/{pattern}", "strict")
    assert [document.origin for document in documents] == expected


def test_home_folder_and_relative_glob(tmp_path, monkeypatch):
    write(tmp_path, a_dot_txt=b"1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_documents("text", "~/a.txt", "strict") == [Document("1", "a.txt")]
    monkeypatch.chdir(tmp_path)
    assert read_documents("text", "*.txt", "strict") == [Document("1", "a.txt")]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert read_documents("text", f"{tmp_path}/a[1].txt", "strict")[0].text == "x"


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\xffbad")
    path = str(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt.*0xff at offset 4.*data\.errors=replace"):
        read_documents("text", path, "strict")
    assert read_documents("text", path, "replace")[0].text == "good\ufffdbad"


def test_missing_paths(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist") as error:
        read_documents("text", f"{tmp_path}/nowhere.txt", "strict")
    assert "char-rnn" not in str(error.value)
    with pytest.raises(UserError, match=r"karpathy/char-rnn.*--config\.data\.path=FILE"):
        read_documents("text", f"{tmp_path}/tinyshakespeare.txt", "strict")
    with pytest.raises(UserError, match="matches no file"):
        read_documents("text", f"{tmp_path}/*.txt", "strict")
    with pytest.raises(UserError, match="matches no file"):
        read_documents("text", str(tmp_path), "strict")
    with pytest.raises(UserError, match=r"needs data\.path"):
        read_documents("text", None, "strict")


def test_empty_file(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a\.txt is empty"):
        read_documents("text", f"{tmp_path}/a.txt", "strict")


def test_no_permission(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # chmod does not stop root
    with pytest.raises(UserError, match=r"a\.txt cannot be read \(Permission denied\)"):
        read_documents("text", str(tmp_path), "strict")


def test_unknown_values():
    with pytest.raises(UserError, match=r"data\.source='parquet'"):
        read_documents("parquet", None, "strict")
    with pytest.raises(UserError, match=r"data\.errors='ignore'"):
        read_documents("stdlib", None, "ignore")


def test_split_of_one_file_is_nanogpts():
    text = "".join(map(chr, range(32, 1025)))
    (train,), (evaluation,) = split_documents([Document(text, "a")], 0.1)
    assert train.text == text[: int(len(text) * 0.9)]
    assert train.text + evaluation.text == text
    assert train.origin == evaluation.origin == "a"


@pytest.mark.parametrize(
    "sizes, fraction, num_train",
    [
        ([1] * 10, 0.1, 9),
        ([1] * 10, 0.25, 7),  # 7.5 of 10, rounded down
        ([5, 90, 5], 0.1, 2),  # 95 is nearer to 90 than 5 is
        ([100, 1], 0.5, 1),
        ([1, 100], 0.1, 1),  # one file each
        ([3, 30], 0.9, 1),
    ],
)
def test_split_of_several_files(sizes, fraction, num_train):
    documents = [Document("x" * size, str(i)) for i, size in enumerate(sizes)]
    train, evaluation = split_documents(documents, fraction)
    assert (len(train), train + evaluation) == (num_train, documents)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_eval_fraction_out_of_range(fraction):
    with pytest.raises(UserError, match=r"data\.eval_fraction"):
        split_documents([Document("abc", "a")], fraction)


def test_split_leaves_nothing():
    with pytest.raises(UserError, match=r"data\.eval_fraction=0\.9 of 1 "):
        split_documents([Document("a", "a")], 0.9)


def test_fingerprint_is_sha256_of_names_and_contents():
    def reference(*pairs):
        parts = [text.encode() for pair in pairs for text in pair]
        return hashlib.sha256(
            b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        ).hexdigest()

    assert fingerprint([Document("ä", "n"), Document("b", "m")]) == reference("nä", "mb")
    prints = {
        fingerprint(documents)
        for documents in (
            [Document("ab", "n")],
            [Document("ac", "n")],
            [Document("ab", "m")],
            [Document("b", "na")],
            [Document("a", "n"), Document("b", "")],
            [Document("a", "n"), Document("", "b")],
        )
    }
    assert len(prints) == 6
