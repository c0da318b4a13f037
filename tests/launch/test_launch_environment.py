"""Environment of the launch scripts, against fake executables: no package is installed here."""

import os
import shlex
import shutil
import signal
import sys
import time

import pytest
from fake_machine import SOURCE, UV, Machine


def pip_install(package: str) -> list[str]:
    return shlex.split(f"python -m pip install --disable-pip-version-check --no-input --editable {package}")


# ---- Hardware


def nvidia_smi(machine: Machine, header: str, capabilities: str) -> None:
    machine.script(
        "nvidia-smi",
        f"case \"$*\" in *compute_cap*) printf '{capabilities}' ;; *) echo '| {header} |' ;; esac",
    )


@pytest.mark.parametrize(
    ("header", "capabilities", "extra", "message"),
    [
        ("Driver Version: 570.86   CUDA Version: 12.8", "9.0\\n", "cuda12", ""),
        ("Driver Version: 580.65   CUDA Version: 13.0", "9.0\\n9.0\\n", "cuda13", ""),
        ("KMD Version: 610.43   CUDA UMD Version: 13.3", "12.0\\n", "cuda13", ""),
        # CUDA 13 has no code for a V100, which driver 580 still serves.
        ("Driver Version: 580.65   CUDA Version: 13.0", "8.0\\n7.0\\n", "cuda12", ""),
        ("Driver Version: 470.82   CUDA Version: 11.4", "7.0\\n", "", "CUDA 11, JAX needs 12"),
        ("Driver Version: 580.65   CUDA Version: N/A", "9.0\\n", "", "CUDA of unknown version"),
    ],
)
def test_the_nvidia_driver_decides_the_extra(machine, header, capabilities, extra, message):
    nvidia_smi(machine, header, capabilities)
    result = machine.evaluate("hardware_extra")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == extra
    assert message in result.stderr
    assert bool(message) == bool(result.stderr)


def test_a_failing_nvidia_smi_is_reported_and_leaves_the_cpu(machine):
    machine.script("nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    result = machine.evaluate("hardware_extra")
    assert (result.returncode, result.stdout) == (0, "")
    assert "NVIDIA-SMI has failed" in result.stderr


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, False),
        ({"dev/accel0": ""}, True),
        ({"dev/accel/accel0": ""}, False),  # a laptop's neural processor
        ({"dev/vfio/0": "", "sys/bus/pci/devices/1/vendor": "0x1ae0\n"}, True),
        ({"dev/vfio/0": "", "sys/bus/pci/devices/1/vendor": "0x10de\n"}, False),
        ({"dev/vfio/vfio": "", "sys/bus/pci/devices/1/vendor": "0x1ae0\n"}, False),
    ],
)
def test_a_tpu_is_known_by_its_device_files(machine, files, found):
    root = machine.root / "root of files"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    result = machine.evaluate(f"if has_tpu {shlex.quote(str(root))}; then echo yes; fi")
    assert result.stdout.strip() == ("yes" if found else ""), result.stderr


def test_a_tpu_is_known_by_its_metadata(machine):
    result = machine.evaluate("hardware_extra", TPU_ACCELERATOR_TYPE="v5litepod-16")
    assert result.stdout == "tpu\n"


# ---- Interpreter


def test_the_first_interpreter_that_serves_is_taken(machine):
    machine.script("python3.14", "echo 'pyenv: python3.14: command not found' >&2; exit 127")
    machine.script("python3.13", "echo 3.13.1; echo /nowhere; echo '_lzma ensurepip'")
    machine.python("python3.11", "3.11.7")
    machine.python("python3", "3.12.4")
    result = machine.run("launch/local.sh", "devices")
    assert result.returncode == 0, result.stderr
    assert "Python 3.11.7" in result.stderr
    assert machine.calls()[0] == ["python3.11", "-m", "venv", str(machine.venv)]


def test_a_broken_interpreter_does_not_hide_a_sound_one_of_the_same_name(machine):
    machine.script("python3.12", "exit 127")
    sound = machine.python("elsewhere/python3.12")
    variables = {"PATH": f"{machine.bin}:{sound.parent}:{machine.tools}"}
    result = machine.run("launch/local.sh", "devices", **variables)
    assert result.returncode == 0, result.stderr


def test_without_an_interpreter_every_candidate_and_the_cure_are_named(machine):
    machine.script("python3.12", "exit 127")
    machine.python("python3.11", "3.11.2", missing="ensurepip venv")
    machine.python("python3", "3.10.9")
    result = machine.run("launch/local.sh")
    assert result.returncode == 2
    for line in (
        "/python3.12 does not run",
        "/python3.11 is Python 3.11.2 without ensurepip, venv",
        "/python3 is Python 3.10.9, older than 3.11",
        "apt install python3 python3-venv",
    ):
        assert line in result.stderr
    assert not machine.venv.exists()


def test_the_probe_reads_a_real_interpreter(machine):
    probe = f"probe {shlex.quote(sys.executable)}"
    served = machine.evaluate(f'{probe} && echo "$VERSION" "$PYTHON"')
    version = ".".join(map(str, sys.version_info[:3]))
    assert served.stdout == f"{version} {sys.executable}\n", served.stderr
    refused = machine.evaluate(f'NEEDED_MODULES="venv no_such_module"; {probe} || echo "$PASSED_OVER"')
    assert refused.stdout.endswith(f"is Python {version} without no_such_module\n")


def test_a_training_in_object_storage_installs_its_package(machine):
    machine.python("python3.12")
    for gpu in (False, True):
        if gpu:
            nvidia_smi(machine, "CUDA Version: 12.8", "9.0\\n")
        printed = machine.evaluate("for WORKDIR in runs/a s3://bucket/a; do training_extras; done")
        assert printed.stdout.split("\n")[:2] == (["cuda12", "cuda12,storage"] if gpu else ["", "storage"])
    for script in ("multiprocess", "slurm"):
        run = ("--dry_run", "--", "train", "--config=quickstart", "--workdir=gs://bucket/a")
        assert ".[cuda12,storage]" in shlex.split(machine.run(f"launch/{script}.sh", *run).stdout)


# ---- local.sh


def test_the_quickstart_installs_once_trains_and_says_what_to_try_next(machine):
    machine.python("python3.12")
    nvidia_smi(machine, "CUDA Version: 12.8", "9.0\\n")
    first = machine.run("launch/local.sh")
    assert first.returncode == 0, first.stderr
    runs = [
        shlex.split("jaxdp train --config=configs/quickstart.py --workdir=runs/quickstart"),
        shlex.split("jaxdp generate --workdir=runs/quickstart --prompt='def ' --max_new_tokens=300 --temperature=0.7"),
        ["jaxdp", "plot", "runs/quickstart"],
    ]
    assert machine.calls() == [
        ["python3.12", "-m", "venv", str(machine.venv)],
        pip_install(".[cuda12]"),
        *runs,
    ]
    commands = [line for line in first.stdout.splitlines() if line.startswith("  bash ")]
    assert [shlex.split(line)[2] for line in commands] == ["generate", "train", "inspect"]

    second = machine.run("launch/local.sh")
    assert machine.calls() == runs
    assert second.stdout == first.stdout


def test_from_another_directory_the_paths_lead_to_the_repository(machine):
    machine.python("python3.12")
    result = machine.run("launch/local.sh", cwd=machine.root)
    assert result.returncode == 0, result.stderr
    train = machine.calls()[2]
    assert train[2] == f"--config={machine.repository}/configs/quickstart.py"
    assert train[3] == f"--workdir={machine.repository}/runs/quickstart"
    command = next(line for line in result.stdout.splitlines() if line.startswith("  bash "))
    assert shlex.split(command)[1] == f"{machine.repository}/launch/local.sh"


def test_the_search_path_of_cd_does_not_lead_astray(machine):
    result = machine.evaluate('echo "$REPOSITORY"', CDPATH=str(SOURCE))
    assert result.stdout == f"{machine.repository}\n"


def test_a_failed_training_ends_the_quickstart_with_its_status(machine):
    machine.python("python3.12")
    result = machine.run("launch/local.sh", JAXDP_STATUS="3")
    assert result.returncode == 3
    assert [call[1] for call in machine.calls() if call[0] == "jaxdp"] == ["train"]
    assert "To try next" not in result.stdout


def test_arguments_reach_jaxdp_verbatim_and_its_status_comes_back(machine):
    machine.python("python3.12")
    arguments = ["generate", "--prompt=two  spaces, a * and\n'quotes'", "--dry_run", ""]
    result = machine.run("launch/local.sh", *arguments, cwd=machine.root, JAXDP_STATUS="75")
    assert result.returncode == 75
    assert result.stdout == f"in {machine.root}\n"  # relative paths of the user stay right
    assert machine.calls()[-1] == ["jaxdp", *arguments]


def test_a_dry_run_prints_the_commands_and_does_nothing(machine):
    machine.python("python3.12")
    before = sorted(machine.root.rglob("*"))
    option = machine.run("launch/local.sh", "--dry_run", "devices")
    variable = machine.run("launch/local.sh", "devices", JAXDP_DRY_RUN="1")
    assert option.returncode == 0, option.stderr
    commands = [shlex.split(line) for line in option.stdout.splitlines()]
    assert [command[-1] for command in commands] == [
        str(machine.venv),
        ".",
        f"PATH={machine.venv}/bin:$PATH",
        "devices",
    ]
    assert variable.stdout == option.stdout
    assert machine.calls() == []
    assert sorted(machine.root.rglob("*")) == before


# ---- The environment


def test_extras_share_an_environment_without_installing_back_and_forth(machine):
    machine.python("python3.12")
    machine.run("launch/local.sh", "devices")
    machine.calls()
    machine.run("launch/test.sh")
    assert machine.calls()[0] == pip_install(".[test]")
    machine.run("launch/local.sh", "devices")
    machine.run("launch/test.sh")
    assert [call[:3] for call in machine.calls()] == [
        ["jaxdp", "devices"],
        ["python", "-m", "pytest"],
    ]


def test_an_extra_includes_the_package_itself(machine):
    machine.python("python3.12")
    machine.run("launch/test.sh")
    machine.calls()
    machine.run("launch/local.sh", "devices")
    assert machine.calls() == [["jaxdp", "devices"]]


def test_a_changed_pyproject_or_interpreter_installs_again_in_place(machine):
    machine.python("python3.12")
    machine.run("launch/local.sh", "devices")
    machine.calls()
    with open(machine.repository / "pyproject.toml", "a") as file:
        file.write("# changed\n")
    machine.run("launch/local.sh", "devices")
    assert machine.calls() == [pip_install("."), ["jaxdp", "devices"]]
    upgraded = machine.python("python3.12", "3.12.5")
    shutil.copy(upgraded, machine.venv / "bin/python")
    machine.run("launch/local.sh", "devices")
    assert machine.calls() == [pip_install("."), ["jaxdp", "devices"]]


def test_an_environment_whose_interpreter_is_gone_is_made_again(machine):
    machine.python("python3.12")
    machine.run("launch/local.sh", "devices")
    machine.calls()
    (machine.venv / "bin/python").unlink()
    assert machine.run("launch/local.sh", "devices").returncode == 0
    assert machine.calls()[0][:3] == ["python3.12", "-m", "venv"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_an_interrupted_installation_is_started_afresh(machine, sent, status):
    machine.python("python3.12")
    (machine.state / "hang").touch()
    process = machine.start("launch/local.sh", "devices")
    deadline = time.monotonic() + 10
    while not (machine.state / "hangs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, sent)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert (machine.venv / "partial").exists()

    (machine.state / "hang").unlink()
    machine.calls()
    result = machine.run("launch/local.sh", "devices")
    assert result.returncode == 0, result.stderr
    assert "interrupted" in result.stderr
    assert [call[:3] for call in machine.calls()] == [
        ["python3.12", "-m", "venv"],
        ["python", "-m", "pip"],
        ["jaxdp", "devices"],
    ]
    assert not (machine.venv / "partial").exists()


def test_a_failed_installation_shows_why_and_keeps_what_was_there(machine):
    machine.python("python3.12")
    machine.run("launch/local.sh", "devices")
    (machine.state / "broken").touch()
    result = machine.run("launch/test.sh")
    assert result.returncode == 2
    assert "ERROR: no such package" in result.stderr
    assert "installing jaxdp[test] failed" in result.stderr
    machine.calls()
    assert machine.run("launch/local.sh", "devices").returncode == 0
    assert machine.calls() == [["jaxdp", "devices"]]
    (machine.state / "broken").unlink()
    machine.run("launch/test.sh")
    assert machine.calls()[0] == pip_install(".[test]")


def test_scripts_started_together_make_one_environment(machine):
    machine.python("python3.12")
    processes = [machine.start("launch/local.sh", "devices") for _ in range(4)]
    for process in processes:
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 0, stderr
    assert sorted(call[0] for call in machine.calls()) == ["jaxdp"] * 4 + ["python", "python3.12"]


def test_a_dry_run_does_not_wait_for_an_installation(machine):
    machine.python("python3.12")
    machine.venv.mkdir(parents=True)
    (machine.venv / "jaxdp_installing").symlink_to(f"{os.getpid()} {os.uname().nodename}")
    result = machine.run("launch/local.sh", "--dry_run", "devices")
    assert result.returncode == 0 and "waiting" not in result.stderr, result.stderr
    assert result.stdout.splitlines()[-1] == "jaxdp devices"
    assert machine.calls() == []


def test_an_environment_made_since_it_was_looked_at_is_not_claimed(machine):
    shutil.copytree(machine.python("made/bin/python").parents[1], machine.venv)
    (machine.venv / "pyvenv.cfg").touch()
    result = machine.evaluate("INTERRUPTED= STATE=unusable; claim_installation '' || echo lost")
    assert result.stdout == "lost\n", result.stderr
    assert not (machine.venv / "jaxdp_installing").is_symlink()


def test_uv_is_used_where_it_is_and_pip_where_uv_fails(machine):
    python = machine.python("python3.12", missing="ensurepip")
    machine.script("uv", UV.format(calls=machine.calls_file, state=machine.state))
    result = machine.run("launch/local.sh", "devices")
    assert result.returncode == 0, result.stderr
    installation = ["uv", "pip", "install", "--python", f"{machine.venv}/bin/python"]
    assert machine.calls() == [
        ["uv", "venv", "--allow-existing", "--python", str(python), str(machine.venv)],
        [*installation, "--editable", "."],
        ["jaxdp", "devices"],
    ]
    (machine.state / "broken_uv").touch()
    result = machine.run("launch/test.sh")
    assert "trying pip" in result.stderr
    assert machine.calls()[:2] == [
        [*installation, "--editable", ".[test]"],
        pip_install(".[test]"),
    ]


def test_what_was_not_made_here_is_never_emptied(machine):
    machine.python("python3.12")
    folder = machine.root / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    result = machine.run("launch/local.sh", JAXDP_VENV=str(folder))
    assert result.returncode == 2
    assert "no Python environment" in result.stderr

    (folder / "pyvenv.cfg").touch()
    (folder / "bin").mkdir()
    shutil.copy(machine.python("old/python", "3.10.1"), folder / "bin/python")
    result = machine.run("launch/local.sh", JAXDP_VENV=str(folder))
    assert result.returncode == 2
    assert "is Python 3.10.1, older than 3.11" in result.stderr

    # One that serves is completed in place, also after an interruption.
    shutil.copy(machine.bin / "python3.12", folder / "bin/python")
    (folder / "jaxdp_installing").symlink_to(f"999999999 {os.uname().nodename}")
    result = machine.run("launch/local.sh", "devices", JAXDP_VENV="precious", cwd=machine.root)
    assert result.returncode == 0, result.stderr
    assert (folder / "thesis.txt").exists()


# ---- test.sh and .ci/run


def test_a_dry_run_of_the_tests_shows_their_directory_and_platform(machine):
    machine.python("python3.12")
    result = machine.run("launch/test.sh", "--dry_run", "-m", "not slow")
    assert result.returncode == 0, result.stderr
    assert [shlex.split(line) for line in result.stdout.splitlines()[-2:]] == [
        ["cd", "--", str(machine.repository)],
        shlex.split("env JAX_PLATFORMS=cpu python -m pytest -n auto --dist loadfile -m 'not slow'"),
    ]


@pytest.mark.parametrize("script", ["launch/test.sh", ".ci/run"])
def test_the_tests_run_on_cpu_and_their_status_comes_back(machine, script):
    machine.python("python3.12")
    result = machine.run(script, "-k", "one or two", cwd=machine.root)
    assert result.returncode == 5
    assert result.stdout == "platforms cpu\n"
    assert machine.calls()[-1] == ["python", "-m", "pytest", "-n", "auto", "--dist", "loadfile", "-k", "one or two"]
    assert os.access(SOURCE / ".ci/run", os.X_OK)
