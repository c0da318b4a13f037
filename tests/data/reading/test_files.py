import functools
import gzip
import http.server
import os
import threading

import fsspec
import pytest

from jaxdp.data.reading import file_content, files
from jaxdp.data.reading.file_content import read_blocks
from jaxdp.data.reading.files import find_files
from jaxdp.errors import UserError


def write(folder, names, content=b"x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(path, *endings):
    return [file.name for file in find_files(str(path), endings)]


def content(file):
    return b"".join(read_blocks(file))


@pytest.fixture
def remote():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_folder_is_walked_sorted_and_without_hidden_empty_and_linked(tmp_path):
    write(tmp_path, ["b.txt", "a/z.md", "c/d/e", ".hidden", ".git/config", "a/.x"])
    write(tmp_path, ["empty.txt"], b"")
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "linked.txt").symlink_to(tmp_path / "b.txt")
    assert names(tmp_path) == ["a/z.md", "b.txt", "c/d/e", "linked.txt"]
    kept = find_files(str(tmp_path), (), keep_empty=True)
    assert [file.name for file in kept] == ["a/z.md", "b.txt", "c/d/e", "empty.txt", "linked.txt"]


def test_folder_by_endings_also_compressed_and_in_capitals(tmp_path):
    write(tmp_path, ["a.csv", "B.TSV", "c.csv.gz", "d/e.tsv.zst", "f.txt", "g.csv.bak", "csv", "h.gz"])
    assert names(tmp_path, ".csv", ".tsv") == ["B.TSV", "a.csv", "c.csv.gz", "d/e.tsv.zst"]
    with pytest.raises(UserError, match=r"no file that ends in \.parquet.*\.gz, \.xz, \.zst"):
        names(tmp_path, ".parquet")


@pytest.mark.parametrize(
    "pattern, expected",
    [("*.txt", ["a.txt"]), ("**/*.txt", ["a.txt", "d/b.txt"]), ("d/*", ["b.txt", "c.md"])],
)
def test_glob_names_are_relative_to_its_fixed_part(tmp_path, remote, pattern, expected):
    for name in ("a.txt", "d/b.txt", "d/c.md"):
        write(tmp_path, [name])
        remote.pipe(f"/corpus/{name}", b"x")
    assert names(f"{tmp_path}/{pattern}", ".csv") == expected  # a glob is taken at its word
    assert names(f"memory://corpus/{pattern}", ".csv") == expected


def test_home_folder_and_relative_glob(tmp_path, monkeypatch):
    write(tmp_path, ["a.txt"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names("~/a.txt") == ["a.txt"]
    monkeypatch.chdir(tmp_path)
    assert names("*.txt") == ["a.txt"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    write(tmp_path, ["a[1].txt"])
    assert names(tmp_path / "a[1].txt") == ["a[1].txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d[1]/*.txt", ["a.txt", "b[2].txt"]),
        ("d[1]/b[2].txt", ["b[2].txt"]),
        ("d[1]", ["a.txt", "b[2].txt", "c.md"]),
        ("d[1]/[ab]*.txt", ["a.txt", "b[2].txt"]),
        ("d[12]/*.txt", ["d1/x.txt", "d2/y.txt"]),  # there is no folder of that name
    ],
)
def test_brackets_in_a_path_are_a_name_where_there_is_one(tmp_path, pattern, expected):
    write(tmp_path, ["d[1]/a.txt", "d[1]/b[2].txt", "d[1]/c.md", "d1/x.txt", "d2/y.txt"])
    assert names(tmp_path / pattern) == expected


def test_linked_folders_that_are_not_read_are_named(tmp_path):
    write(tmp_path, ["root/a.txt", "other/b.txt", "third/c.txt"])
    assert [file.remarks for file in find_files(str(tmp_path / "root"), ())] == [()]
    (tmp_path / "root" / "more").symlink_to(tmp_path / "other", target_is_directory=True)
    (tmp_path / "root" / "self").symlink_to(tmp_path / "root", target_is_directory=True)
    [file] = find_files(str(tmp_path / "root"), ())
    root = tmp_path / "root"
    assert file.remarks == (
        f"data.path: linked folders in {root} are not read: 'more', 'self'; a glob such as {root}/**/*.txt reads them too",
    )
    (tmp_path / "root" / "a.txt").unlink()
    with pytest.raises(UserError, match="by a glob, which enters linked folders too"):
        find_files(str(tmp_path / "root"), (".txt",))
    (root / "self").unlink()
    assert names(f"{root}/**/*.txt") == ["more/b.txt"]


def test_remote_file_and_folder(remote):
    for name, text in (("a.jsonl", b"12"), ("d/b.json.gz", gzip.compress(b"345")), (".c/d.json", b"6"), ("e", b"7")):
        remote.pipe(f"/corpus/{name}", text)
    found = find_files("memory://corpus", (".json", ".jsonl"))
    assert [file.name for file in found] == ["a.jsonl", "d/b.json.gz"]
    assert [content(file) for file in found] == [b"12", b"345"]
    assert found[0].num_bytes == 2
    [file] = find_files("memory://corpus/e", (".json",))
    assert (file.name, content(file)) == ("e", b"7")
    with pytest.raises(UserError, match=r"^data\.path: memory://corpus/f does not exist"):
        find_files("memory://corpus/f", ())
    with pytest.raises(UserError, match=r"^data\.path=memory://corpus/\*\.x matches no file"):
        find_files("memory://corpus/*.x", ())


def test_remote_protocols_that_cannot_be_used(monkeypatch):
    with pytest.raises(UserError, match=r"nope://a/b cannot be read \(Protocol not known: nope\)"):
        find_files("nope://a/b", ())

    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(UserError, match=r"Install s3fs.*pip install 'fsspec\[s3\]'"):
        find_files("s3://bucket/a", ())


def test_stamp_changes_with_the_content(tmp_path, remote):
    def stamp():
        return [find_files(str(path), ())[0].stamp for path in (tmp_path, "memory://a")]

    write(tmp_path, ["a"], b"one")
    remote.pipe("/a", b"one")
    before = stamp()
    assert stamp() == before
    times = os.stat(tmp_path / "a")
    write(tmp_path, ["a"], b"two")
    os.utime(tmp_path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy keeps them
    remote.pipe("/a", b"two")
    assert all(new != old for new, old in zip(stamp(), before, strict=True))


def test_stamp_of_a_server_that_tells_nothing():
    info = {"name": "a", "size": 1, "type": "file"}
    assert files._remote_stamp(info) != files._remote_stamp(info)
    info["ETag"] = "x"
    assert files._remote_stamp(info) == files._remote_stamp(info) != files._remote_stamp({**info, "ETag": "y"})


def test_http(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        [file] = find_files(f"{address}/a.txt.gz?token=secret", ())
        assert (file.name, content(file)) == ("a.txt.gz", b"text")
        with pytest.raises(UserError, match=r"/b\.txt cannot be read \(404"):
            find_files(f"{address}/b.txt", ())
        server.shutdown()


def test_remote_errors_while_reading(remote, monkeypatch):
    remote.pipe("/a", b"x")
    [file] = find_files("memory://a", ())

    def fail(*args, **kwargs):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(remote, "open", fail)
    with pytest.raises(UserError, match=r"data\.path: memory:///a cannot be read \(no credentials\)"):
        content(file)


def test_missing_paths(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist") as error:
        names(tmp_path / "nowhere.txt")
    assert "char-rnn" not in str(error.value)
    with pytest.raises(UserError, match=r"karpathy/char-rnn.*--config\.data\.path=FILE"):
        names(tmp_path / "tinyshakespeare.txt")
    with pytest.raises(UserError, match="matches no file"):
        names(tmp_path / "*.txt")
    with pytest.raises(UserError, match="matches no file"):
        names(tmp_path)
    with pytest.raises(UserError, match=r"^data\.eval_path: .*x does not exist.*"):
        find_files(str(tmp_path / "x"), (), "data.eval_path")


def test_empty_files(tmp_path):
    write(tmp_path, ["a.txt", "b/c.txt"], b"")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(UserError, match=r"\.txt is empty, and no other file has text"):
            names(path)


def test_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe is no regular file"):
        names(tmp_path / "pipe")
    write(tmp_path, ["a.txt"])
    assert names(tmp_path) == ["a.txt"]


def test_no_permission(tmp_path, monkeypatch):
    write(tmp_path, ["a.txt"])
    [file] = find_files(str(tmp_path), ())

    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(file_content, "open", refuse, raising=False)  # chmod does not stop root
    with pytest.raises(UserError, match=r"a\.txt cannot be read \(Permission denied\)"):
        content(file)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        names(tmp_path)


@pytest.mark.parametrize("path", ["https://ann:***@host/a.txt", "s3://b/a.txt?sig=***"])
def test_a_url_that_has_lost_its_secret_is_refused(path):
    with pytest.raises(
        UserError, match=r"data\.path=.* is kept without its password or token: give the complete URL again"
    ):
        find_files(path, ())
