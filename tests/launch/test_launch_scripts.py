"""The launch scripts against fake executables: no package is installed here."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

SOURCE = Path(__file__).parents[2]
BASH = shutil.which("bash")
# All that the scripts may need of a machine besides Python.
TOOLS = shlex.split("bash cat cksum cp dirname env find ln ls mkdir readlink rm sed seq sleep tail uname")

# Appends the command to the calls, arguments and commands ended by separators.
RECORD = """record() {{ printf -v line '%s\\037' "$@"; printf '%s\\036' "$line" >>{calls}; }}"""

PYTHON = (
    "#!{bash}\n"
    + RECORD
    + """
case "$1 $2" in
  "-c import pip") exit 0 ;;
  "-c "*)
    echo {version}
    case {version} in 3.10.*) exit 0 ;; esac
    echo "$0"
    for module in {missing}; do case " $* " in *" $module "*) printf '%s ' $module ;; esac; done
    exit 0 ;;
esac
record "${{0##*/}}" "$@"
environment=${{0%/bin/*}}
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin"; : >"$3/pyvenv.cfg"; cp "$0" "$3/bin/python" ;;
  "-m pip")
    if [ -e {state}/hang ]; then : >"$environment/partial"; : >{state}/hangs; sleep 30; fi
    if [ -e {state}/broken ]; then echo "ERROR: no such package"; exit 1; fi
    cp {state}/jaxdp "$environment/bin/jaxdp" ;;
  "-m pytest") echo "platforms $JAX_PLATFORMS"; exit 5 ;;
esac
"""
)

JAXDP = (
    "#!{bash}\n"
    + RECORD
    + """
record jaxdp "$@"
echo "in $PWD"
exit "${{JAXDP_STATUS:-0}}"
"""
)

UV = (
    RECORD
    + """
record uv "$@"
case "$1" in
  venv) mkdir -p "$5/bin"; : >"$5/pyvenv.cfg"; cp "$4" "$5/bin/python" ;;
  pip) [ ! -e {state}/broken_uv ] || exit 2; cp {state}/jaxdp "${{4%/python}}/jaxdp" ;;
esac"""
)


class Machine:
    """A clone of the repository and a PATH on which only `bin` and tools are."""

    def __init__(self, root: Path):
        self.root = root
        self.repository = root / "a clone"
        self.bin, self.tools, self.state = root / "bin", root / "tools", root / "state"
        self.calls_file = self.state / "calls"
        for folder in (self.repository, self.bin, self.tools, self.state):
            folder.mkdir()
        shutil.copytree(SOURCE / "launch", self.repository / "launch")
        shutil.copytree(SOURCE / ".ci", self.repository / ".ci")
        shutil.copy(SOURCE / "pyproject.toml", self.repository)
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool))
        self.executable(self.state / "jaxdp", JAXDP.format(bash=BASH, calls=self.calls_file))

    @property
    def venv(self) -> Path:
        return self.repository / ".venv"

    def executable(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def script(self, name: str, body: str) -> Path:
        return self.executable(self.bin / name, f"#!{BASH}\n{body}\n")

    def python(self, name: str, version: str = "3.12.4", missing: str = "") -> Path:
        text = PYTHON.format(bash=BASH, version=version, missing=missing, calls=self.calls_file, state=self.state)
        return self.executable(self.bin / name, text)

    def environment(self, **variables: str) -> dict[str, str]:
        return {"PATH": f"{self.bin}:{self.tools}", "HOME": str(self.root), **variables}

    def start(self, script: str, *arguments: str, cwd=None, **variables: str):
        return subprocess.Popen(
            [BASH, str(self.repository / script), *arguments],
            cwd=cwd or self.repository,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str, cwd=None, **variables: str):
        process = self.start(script, *arguments, cwd=cwd, **variables)
        stdout, stderr = process.communicate(timeout=20)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def evaluate(self, command: str, **variables: str):
        """Runs `command` in a shell that has sourced environment.sh."""
        return subprocess.run(
            [BASH, "-euo", "pipefail", "-c", f". launch/environment.sh; UV=; {command}"],
            cwd=self.repository,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=20,
        )

    def calls(self) -> list[list[str]]:
        """The commands that the fakes received since the last time."""
        if not self.calls_file.exists():
            return []
        records = self.calls_file.read_text().split("\x1e")[:-1]
        self.calls_file.unlink()
        return [record.split("\x1f")[:-1] for record in records]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


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
    assert [command[-1] for command in commands] == [str(machine.venv), ".", "devices"]
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


@pytest.mark.parametrize("script", ["launch/test.sh", ".ci/run"])
def test_the_tests_run_on_cpu_and_their_status_comes_back(machine, script):
    machine.python("python3.12")
    result = machine.run(script, "-k", "one or two", cwd=machine.root)
    assert result.returncode == 5
    assert result.stdout == "platforms cpu\n"
    assert machine.calls()[-1] == ["python", "-m", "pytest", "-n", "auto", "--dist", "loadfile", "-k", "one or two"]
    assert os.access(SOURCE / ".ci/run", os.X_OK)


# ---- restart.sh

# Says who it is, takes the next status from the list of its process and leaves with it;
# `hang` stays, whatever it is asked, and `term` until SIGTERM, then leaves with 75.
RESTARTED = """#!{bash}
printf '%s\\n' "$*" >>{state}/starts
index=0
for option in "$@"; do case $option in --process_index=*) index=${{option#*=}} ;; esac; done
{{ read -r status; rest=$(cat); }} <{state}/statuses.$index
printf '%s\\n' "$rest" >{state}/statuses.$index
case $status in
  hang) trap "" TERM INT; while :; do sleep 0.05; done ;;
  term) trap 'exit 75' TERM; : >{state}/ready; while :; do sleep 0.05; done ;;
esac
exit "$status"
"""


@pytest.fixture
def restart(machine):
    """Runs restart.sh where each process leaves with the given statuses in turn; returns the result and the starts."""
    machine.python("python3.12")
    machine.executable(machine.state / "jaxdp", RESTARTED.format(bash=BASH, state=machine.state))

    def run(*statuses, arguments=("--config=c.py", "--workdir=w"), options=(), start=machine.run):
        for index, of_process in enumerate(statuses):
            (machine.state / f"statuses.{index}").write_text("\n".join(map(str, of_process)) + "\n")
        (machine.state / "starts").unlink(missing_ok=True)
        result = start("launch/restart.sh", *options, *arguments, JAXDP_PAUSE_SECS="0", JAXDP_END_SECS="1")
        if start == machine.run:
            return result, (machine.state / "starts").read_text().splitlines()
        return result

    return run


@pytest.mark.parametrize(
    ("statuses", "status", "starts"),
    [
        ([0], 0, 1),
        ([70, 75, 134, 137, 143, 0], 0, 6),
        ([70, 2, 0], 2, 2),
        ([3], 3, 1),
        ([130], 130, 1),
        ([129], 129, 1),
        ([70, 70, 70, 70, 0], 70, 4),
    ],
)
def test_a_run_is_restarted_after_failures_that_a_restart_fixes(restart, statuses, status, starts):
    result, started = restart(statuses, options=["--restarts=3"] if starts == 4 else [])
    assert result.returncode == status, result.stderr
    assert started == ["train --config=c.py --workdir=w"] * starts
    again = [line for line in result.stderr.splitlines() if "restarting" in line]
    assert len(again) == starts - 1
    assert all(f"jaxdp: exit code {code}; restarting (" in line for code, line in zip(statuses, again, strict=False))
    assert ("the maximum of --restarts=3" in result.stderr) == (starts == 4)


def test_several_processes_meet_at_a_port_of_this_machine(restart):
    result, started = restart([70, 0], [0, 0], options=["--processes=2"])
    assert result.returncode == 0, result.stderr
    meetings = [
        re.fullmatch(
            r"train --config=c.py --workdir=w --coordinator=127.0.0.1:(\d+) --num_processes=2 --process_index=(\d)",
            line,
        )
        for line in started
    ]
    assert sorted(match[2] for match in meetings) == ["0", "0", "1", "1"]
    ports = [match[1] for match in meetings]
    assert len(set(ports[:2])) == len(set(ports[2:])) == 1


@pytest.mark.parametrize(("other", "status"), [(134, 2), (70, 2), (0, 2)])
def test_what_a_start_would_not_mend_decides(restart, other, status):
    result, started = restart([other], [2], options=["--processes=2"])
    assert (result.returncode, len(started)) == (status, 2)


def test_a_process_that_does_not_end_with_the_others_is_killed(restart):
    result, started = restart([70, 0], ["hang", 0], options=["--processes=2"])
    assert result.returncode == 0, result.stderr
    assert "ending the processes that are left: " in result.stderr and len(started) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_to_the_script_stops_the_run_for_good(restart, machine, number):
    process = restart(["term"], ["term"], options=["--processes=2"], start=machine.start)
    while not (machine.state / "ready").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75 and "restarting" not in err


def test_restart_dry_run(machine):
    machine.python("python3.12")
    result = machine.run("launch/restart.sh", "--dry_run", "--restarts=3", "--processes=2", "--config=my c.py")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()[-2:]
    for index, line in enumerate(lines):
        assert re.fullmatch(
            rf"jaxdp train --config=my\\ c.py --coordinator=127.0.0.1:\d+ --num_processes=2 --process_index={index}",
            line,
        )
    assert "again up to 3 times after exit codes 70, 75, 134, 137 and 143" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["--restarts=many", "--config=c"], ["--processes=0", "--config=c"], ["--processes=", "--config=c"]],
)
def test_restart_refuses_what_it_does_not_understand(machine, arguments):
    result = machine.run("launch/restart.sh", *arguments)
    assert result.returncode == 2
    assert "expected the arguments of jaxdp train" in result.stderr or "must be whole numbers" in result.stderr


# ---- Clusters


def slurm(machine: Machine, status: int):
    machine.python("python3.12")
    machine.script("srun", f'echo "srun $* on $JAX_LOCAL_DEVICE_IDS"; exit {status}')
    machine.script("scontrol", 'echo "scontrol $*"')
    spooled = machine.root / "spool/slurm_script"  # where SLURM keeps its copy
    spooled.parent.mkdir()
    shutil.copy(SOURCE / "launch/slurm.sh", spooled)
    return machine.run(
        str(spooled),
        "--config=c.py",
        cwd=machine.root,
        SLURM_SUBMIT_DIR=str(machine.repository),
        SLURM_GPUS_ON_NODE="4",
        SLURM_JOB_ID="17",
    )


@pytest.mark.parametrize(
    ("status", "again"), [(0, False), (2, False), (3, False), (70, True), (75, True), (137, True), (143, True)]
)
def test_slurm_gives_each_process_all_gpus_and_starts_again_what_can_go_on(machine, status, again):
    result = slurm(machine, status)
    assert result.returncode == status, result.stderr
    lines = ["srun --cpu-bind=none --wait=300 jaxdp train --config=c.py on 0,1,2,3"]
    assert result.stdout.splitlines() == lines + ["scontrol requeue 17"] * again


def test_slurm_asks_for_one_process_a_node_and_time_to_save():
    text = (SOURCE / "launch/slurm.sh").read_text()
    options = [line.split(maxsplit=1)[1] for line in text.splitlines() if "#SBATCH" in line[:7]]
    assert {"--ntasks-per-node=1", "--signal=TERM@300", "--requeue"} <= set(options)
    assert not any(option.startswith("--gpus-per-task") for option in options)


def test_slurm_dry_run(machine):
    machine.python("python3.12")
    result = machine.run("launch/slurm.sh", "--dry_run", "--config=c.py", "--workdir=w")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == ("srun --cpu-bind=none --wait=300 jaxdp train --config=c.py --workdir=w")


def test_tpu_pod_dry_run_quotes_the_arguments_for_the_remote_shell(machine):
    arguments = ["--config=c.py", "--config.data.path=my file", "--workdir=/mnt/w"]
    result = machine.run("launch/tpu_pod.sh", "--dry_run", "pod", "zone", *arguments)
    assert result.returncode == 0, result.stderr
    *_, train = (shlex.split(line) for line in result.stdout.splitlines())
    prefix = "gcloud compute tpus tpu-vm ssh pod --zone=zone --worker=all"
    assert train[:-1] == prefix.split()
    remote = shlex.split(train[-1].removeprefix("--command="))
    assert remote == ["cd", "jaxdp", "&&", "bash", "launch/local.sh", "train", *arguments]
    usage = machine.run("launch/tpu_pod.sh", "pod")
    assert usage.returncode == 2
    assert "expected TPU_NAME ZONE" in usage.stderr


def test_kubernetes_job_is_one_run_of_as_many_processes_as_pods():
    service, job = yaml.safe_load_all((SOURCE / "launch/gke.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = dict(option.removeprefix("--").split("=", 1) for option in container["command"][2:])
    assert container["command"][:2] == ["jaxdp", "train"]
    required = {"config", "workdir", "coordinator", "num_processes", "process_index"}
    assert set(options) == required
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(options["num_processes"])
    assert options["process_index"] == "$(JOB_COMPLETION_INDEX)"
    host, port = options["coordinator"].split(":")
    assert host == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert 1024 <= int(port) < 65536
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy requires
    codes = {
        (rule["action"], rule["onExitCodes"]["operator"]): rule["onExitCodes"]["values"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert codes == {("Ignore", "In"): [70, 75, 134, 137, 143], ("FailJob", "NotIn"): [70, 75, 134, 137, 143]}


# ---- All


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    scripts = [*sorted((SOURCE / "launch").glob("*.sh")), SOURCE / ".ci/run"]
    result = subprocess.run(["shellcheck", "-x", "-P", str(SOURCE), *map(str, scripts)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
