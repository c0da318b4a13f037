"""What commands print: no control character of a stranger's file, no secret of a URL."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import train

import jaxdp.cli
from jaxdp.cli.main import main

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


def test_commands_print_by_the_functions_that_clean():
    """`options.show` and `show_json`; plain `generate` prints data, which the stream cleans in a terminal."""
    for path in Path(jaxdp.cli.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"]
        assert not calls or path.name in ("options.py", "dispatch.py", "generate.py", "eval.py"), f"{path.name}, line {calls[0].lineno}: print"
