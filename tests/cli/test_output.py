"""What commands print: no control character of a stranger's file, no secret of a URL."""

import argparse
import ast
import errno
import json
import shutil
from pathlib import Path

import fsspec
import pytest
from tiny_runs import environment, start, train

import jaxdp.cli
from jaxdp.cli import predict
from jaxdp.cli.main import main
from jaxdp.cli.options import as_json, utf8_text
from jaxdp.errors import UserError

SECRET = "https://ann:pw@host/a.txt?token=abc"
HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e"


@pytest.fixture
def strange(trained, tmp_path):
    """A run of a stranger, whose texts try the terminal."""
    run = shutil.copytree(trained, tmp_path / f"run{HOSTILE}")
    checkpoint = run / "checkpoints" / "6"
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    manifest["metrics"] = {f"eval/loss{HOSTILE}": 1.0, "eval/loss": 2.0}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run


@pytest.mark.parametrize("options", [[], ["--json"], ["--verify"]])
def test_inspect_of_a_strange_run_is_printable(strange, capsys, options):
    main(["inspect", str(strange), *options])
    out, err = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)
    assert "]0;owned" in out + err


def test_json_is_printable_and_the_same_value():
    value = {f"label{HOSTILE}": f"caf\u00e9 \u4e2d{HOSTILE}\ud83d"}
    assert as_json(value).isprintable() and json.loads(as_json(value)) == value


def test_errors_are_printable(strange, capsys):
    assert main(["eval", f"--workdir={strange}/none"]) == 2
    assert all(letter.isprintable() or letter == "\n" for letter in capsys.readouterr().err)


def test_a_secret_of_the_command_line_stays_out_of_files_and_messages(config_file, tmp_path, capsys):
    """A run is continued by the complete URL, not by what is kept of it."""
    options = ["--config.total_steps=1", f"--config.data.eval_path={SECRET}", f"--config.data.path={SECRET}"]
    code = train(config_file, tmp_path / "run", *options)  # no such host
    err = capsys.readouterr().err
    assert code == 2 and "https://ann:***@host/a.txt?token=***" in err and "pw@" not in err and "abc" not in err
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        content = path.read_text(encoding="utf-8", errors="replace")
        assert "pw@" not in content and "abc" not in content


def test_a_run_on_a_url_with_a_secret_keeps_it_nowhere_and_continues(config_file, tmp_path, monkeypatch, capsys):
    url = "memory://ann:geheim@host/a.txt"
    text = config_file.with_name("text.txt").read_bytes()
    fsspec.filesystem("memory").pipe("/ann:geheim@host/a.txt", text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run, options = (
        tmp_path / "run",
        ["--config.eval.every_steps=0", "--config.optim.schedule=constant", f"--config.data.path={url}"],
    )
    assert train(config_file, run, *options, "--config.total_steps=2") == 0
    assert (
        json.loads((run / "config.json").read_text(encoding="utf-8"))["data"]["path"] == "memory://ann:***@host/a.txt"
    )
    assert train(config_file, run, *options, "--config.total_steps=3") == 0
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]
    said = "".join(capsys.readouterr())
    assert not kept and "geheim" not in said and "resuming from checkpoint 2" in said
    assert main(["eval", f"--workdir={run}"]) == 2
    assert (
        "is kept without its password or token: give the complete URL again, as in --config.data.path=URL"
        in capsys.readouterr().err
    )
    assert main(["eval", f"--workdir={run}", f"--config.data.path={url}"]) == 0


def test_commands_print_by_the_functions_that_clean():
    """`options.show` and `show_json`; plain `generate` prints data, which the stream cleans in a terminal."""
    for path in Path(jaxdp.cli.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        ]
        assert not calls or path.name in ("options.py", "dispatch.py", "generate.py"), (
            f"{path.name}, line {calls[0].lineno}: print"
        )


def test_a_text_of_the_command_line_is_utf_8_in_any_locale():
    """In the C locale Python keeps each byte above 127 as a surrogate."""
    text = "caf\u00e9 \u4e2d \ud83d"
    assert utf8_text("caf\u00e9") == "caf\u00e9"
    assert utf8_text("caf\u00e9 \u4e2d".encode().decode("ascii", "surrogateescape")) == "caf\u00e9 \u4e2d"
    assert utf8_text(text) == text
    with pytest.raises(argparse.ArgumentTypeError, match="byte 3 of the text is not UTF-8"):
        utf8_text("caf\udce9")


@pytest.mark.slow
def test_a_run_in_the_c_locale(config_file, compilation_cache, tmp_path):
    """No file of ours is opened in the encoding of the locale, and no result is lost for want of a letter."""
    (tmp_path / "caf\u00e9.txt").write_text("caf\u00e9 cr\u00e8me \u4e2d " * 300, encoding="utf-8")
    locale = environment(
        compilation_cache, PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONWARNDEFAULTENCODING="1"
    )
    options = [
        "--cpu_devices=1",
        "--config.total_steps=1",
        "--config.eval.every_steps=0",
        "--config.data.tokenizer=char",
    ]
    process = start(
        "train",
        f"--config={config_file}",
        "--workdir=run",
        "--config.data.path=caf\u00e9.txt",
        *options,
        env=locale,
        cwd=tmp_path,
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "/jaxdp/" not in "".join(
        line for line in err.splitlines() if "EncodingWarning" in line
    ), err
    process = start(
        "generate",
        "--workdir=run",
        "--prompt=caf\u00e9",
        "--max_new_tokens=2",
        "--cpu_devices=1",
        env=locale,
        cwd=tmp_path,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out.startswith("caf\\u00e9"), err


def test_an_error_of_the_input_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(OSError, match="Input/output error"), predict._output(str(tmp_path / "out"), "in.csv") as write:
        write("half")
        raise OSError(errno.EIO, "Input/output error")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_under_the_output_is_a_sentence():
    with (
        pytest.raises(UserError, match=r"--output=/dev/full cannot be written \(No space left on device\)"),
        predict._output("/dev/full", "in.csv") as write,
    ):
        write("x" * 2**20)
