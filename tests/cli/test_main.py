"""The entry point: help, version, exit codes."""

import importlib
import subprocess
import sys

import pytest

import jaxdp
from jaxdp.cli import eval as eval_command
from jaxdp.cli.main import COMMANDS, main
from jaxdp.errors import DamageFound, TrainingDiverged, UserError


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_names_every_command_and_exit_code(capsys, arguments):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, text in COMMANDS.items():
        assert f"jaxdp {name}" in out and text in out
    assert all(f"{code} " in out for code in (0, 2, 3, 4, 70, 75, 130))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    out, err = capsys.readouterr()
    assert leaving.value.code == 0 and err == ""
    assert f"usage: jaxdp {command}" in out
    assert "--cpu_devices N" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxdp {jaxdp.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["generate", "--help"], ["--version"]])
def test_help_comes_without_jax(arguments):
    code = (
        "import sys\nfrom jaxdp.cli.main import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "sys.exit(', '.join({'jax', 'flax', 'optax', 'orbax', 'datasets', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_wrong_usage_is_told_without_jax(config_file):
    code = (
        "import sys\nfrom jaxdp.cli.main import main\n"
        f"code = main(['train', '--config={config_file}', '--workdir=w', '--config.sed=1'])\n"
        "sys.exit(code if 'jax' not in sys.modules else 99)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr == "jaxdp: unknown configuration key 'sed'; did you mean 'seed'?\n"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("fix this."), 2, "jaxdp: fix this.\n"),
        (TrainingDiverged("it diverged."), 3, "jaxdp: it diverged.\n"),
        (DamageFound("a file is damaged."), 4, "jaxdp: a file is damaged.\n"),
        (KeyboardInterrupt(), 130, "jaxdp: interrupted\n"),
    ],
)
def test_each_error_has_its_exit_code(capsys, monkeypatch, raised, code, said):
    def fail(options, rest):
        raise raised

    monkeypatch.setattr(eval_command, "run", fail)
    assert main(["eval", "--workdir=x"]) == code
    assert capsys.readouterr() == ("", said)


def test_what_nobody_foresaw_is_told_as_ours_with_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(eval_command, "run", None)  # so that jaxdp itself raises, and not this file
    assert main(["eval", "--workdir=x"]) == 70
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" in err and "TypeError: 'NoneType' object is not callable" in err
    assert err.endswith(
        "jaxdp: this is an internal error, not caused by your input; please report it with the lines above.\n"
    )


def test_options_are_never_abbreviated(capsys):
    assert main(["eval", "--workdir=x", "--spl=eval"]) == 2
    assert "unknown option --spl; did you mean --split?" in capsys.readouterr().err


def test_python_m_jaxdp_is_the_command():
    finished = subprocess.run([sys.executable, "-m", "jaxdp", "trian"], capture_output=True, text=True)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "jaxdp: unknown command 'trian'; did you mean 'train'?\n"


def test_commands_are_modules():
    for name in COMMANDS:
        module = importlib.import_module(f"jaxdp.cli.{name}")
        assert module.__doc__ and callable(module.add_options) and callable(module.run)
