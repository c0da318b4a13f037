"""launch/multiprocess.sh: restarts, signals, exit codes and the merged log, with fake processes; GPUs by dry runs."""

import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_machine import BASH, HARD, SOURCE

# Takes the next line from the script of its process and evaluates it.
PROCESS = """#!{bash}
cd {state}
printf '%s\\n' "$*" >>starts
index=0
for option in "$@"; do case $option in --process_index=*) index=${{option#*=}} ;; esac; done
{{ read -r line; rest=$(cat); }} <script.$index
printf '%s\\n' "$rest" >script.$index
eval "$line"
"""

HANG = 'trap "" TERM INT; while :; do sleep 0.05; done'
SAVE = "trap 'exit {code}' {name}; : >ready.$index; while :; do sleep 0.05; done"


class Group:
    """Processes of a fake run, each with a script of one line per start."""

    def __init__(self, root: Path):
        self.root, self.state = root, root / "state"
        self.bin = root / "bin"
        self.state.mkdir()
        self.bin.mkdir()
        (self.bin / "jaxdp").write_text(PROCESS.format(bash=BASH, state=self.state))
        (self.bin / "jaxdp").chmod(0o755)

    def start(self, *scripts, options=(), command=("train", "--config=c.py", "--workdir=w"), **streams):
        for index, lines in enumerate(scripts):
            commands = [line if isinstance(line, str) else f"exit {line}" for line in lines]
            (self.state / f"script.{index}").write_text("\n".join(commands) + "\n")
        own = [f"--processes={len(scripts)}", "--restarts=10", *options]
        streams = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE} | streams
        return subprocess.Popen(
            [sys.executable, str(SOURCE / "launch/process_group.py"), *own, "--", *command],
            cwd=self.root,
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "JAXDP_PAUSE_SECS": "0", "JAXDP_END_SECS": "1"},
            **streams,
        )

    def run(self, *scripts, **options):
        process = self.start(*scripts, **options)
        stdout, stderr = process.communicate(timeout=60)
        texts = (stream.decode(errors="replace") for stream in (stdout, stderr))
        return subprocess.CompletedProcess(process.args, process.returncode, *texts)

    @property
    def starts(self) -> list[str]:
        return (self.state / "starts").read_text().splitlines()

    def wait_for(self, *names):
        end = time.monotonic() + 60
        while not all((self.state / name).exists() for name in names):
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def group(tmp_path):
    return Group(tmp_path)


def has_ended(pid):
    """True if the process is gone or a zombie, whose parent is not a test."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def assert_ends(pid):
    end = time.monotonic() + 60
    while not has_ended(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- Restarts


@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [
        ([0], 0, 1),
        ([70, 75, 134, 137, 143, 0], 0, 6),
        (["kill -KILL $$", "kill -TERM $$", "kill -ABRT $$", 0], 0, 4),
        ([70, 2, 0], 2, 2),
        ([3], 3, 1),
        ([130], 130, 1),
        ([129], 129, 1),
        ([70, 70, 70, 70, 0], 70, 4),
    ],
)
def test_a_run_is_restarted_after_failures_that_a_restart_fixes(group, codes, code, starts):
    result = group.run(codes, options=["--restarts=3"] if code == 70 else [])
    assert result.returncode == code, result.stderr
    assert group.starts == ["train --config=c.py --workdir=w"] * starts
    assert result.stderr.count("; restarting (") == starts - 1
    assert ("the maximum of --restarts=3" in result.stderr) == (code == 70)


def test_only_restarts_without_a_new_checkpoint_count(group):
    codes = [f"mkdir -p ../w/checkpoints/{step}; exit 70" for step in (5, 10, 10, 15)]
    result = group.run([*codes, 70, 70, 0], options=["--restarts=2"])
    assert result.returncode == 70
    assert re.findall(r"restarting \((\d) of 2\)", result.stderr) == ["1", "1", "2", "1", "2"]


def test_several_processes_meet_at_a_port_of_this_machine(group):
    result = group.run([70, 0], [0, 0], options=["--cpu_devices=4"])
    assert result.returncode == 0, result.stderr
    meetings = [
        re.fullmatch(
            r"train --config=c.py --workdir=w --cpu_devices=4 --coordinator=127.0.0.1:(\d+) --num_processes=2 "
            r"--process_index=(\d)",
            line,
        )
        for line in group.starts
    ]
    assert sorted(match[2] for match in meetings) == ["0", "0", "1", "1"]
    ports = [match[1] for match in meetings]
    assert len(set(ports[:2])) == len(set(ports[2:])) == 1


@pytest.fixture
def process_group(monkeypatch):
    """The module itself."""
    monkeypatch.syspath_prepend(SOURCE / "launch")
    spec = importlib.util.spec_from_file_location("process_group", SOURCE / "launch/process_group.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_port_in_use_is_passed_over(process_group, monkeypatch):
    with socket.socket() as listener, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
        other.close()
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setattr(process_group, "PORTS", [listener.getsockname()[1]] * 99 + [free])
        assert process_group.free_port() == free


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([134, 2], 2), ([2, 134], 2), ([70, 137], 70), ([0, 75], 75), ([3, 2], 3), ([139, 137], 139)],
)
def test_codes_that_no_restart_fixes_decide_and_then_the_first(process_group, codes, code):
    assert process_group.exit_code(codes) == code


def test_what_a_start_would_not_fix_ends_all(group):
    result = group.run([137], [2])
    assert (result.returncode, len(group.starts)) == (2, 2)


def test_a_process_that_does_not_end_with_the_others_is_killed(group):
    result = group.run([70, 0], [HANG, 0])
    assert result.returncode == 0, result.stderr
    assert "process 0 of 2 ended with exit code 70\n" in result.stderr
    assert "killing the processes that are left 1 s after the first: 1\n" in result.stderr and len(group.starts) == 4


# ---- Signals and orphans


@pytest.mark.parametrize(
    ("name", "code"), [("TERM", 75), ("HUP", 75), ("INT", 130)], ids=["SIGTERM", "SIGHUP", "SIGINT"]
)
def test_a_signal_to_the_launcher_reaches_every_process_and_stops_the_run_for_good(group, name, code):
    script = SAVE.format(code=code, name=name)
    process = group.start([script, 0], [script, 0])
    group.wait_for("ready.0", "ready.1")
    process.send_signal(signal.Signals[f"SIG{name}"])
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and b"restarting" not in err and len(group.starts) == 2
    assert err.count(f"ended with exit code {code}".encode()) == 2


def test_what_a_killed_process_has_started_ends_with_it(group):
    result = group.run(["sleep 1000 & echo $! >worker; kill -KILL $$", "exit 0"])
    assert result.returncode == 0, result.stderr
    assert "process 0 of 1 ended with exit code 137 (SIGKILL)\n" in result.stderr
    assert_ends(int((group.state / "worker").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of the death of its parent")
def test_processes_are_stopped_when_the_launcher_is_killed(group):
    script = "echo $$ >pid.$index; trap ': >saved.$index; exit 75' TERM; : >ready.$index; while :; do sleep 0.05; done"
    process = group.start([script], [script])
    group.wait_for("ready.0", "ready.1")
    process.kill()
    process.communicate(timeout=60)
    group.wait_for("saved.0", "saved.1")
    for index in range(2):
        assert_ends(int((group.state / f"pid.{index}").read_text()))


# ---- Merged log

LINES = """mkdir -p ../w; for i in 1 2 3 4 5; do printf "line $i of $index: "; printf '%040000d' 0; echo " end"; done"""


def test_lines_of_several_processes_stay_whole_in_one_log(group):
    result = group.run([LINES + "; exit 70", LINES], [LINES, LINES], [LINES, LINES])
    assert result.returncode == 0, result.stderr
    merged = (group.root / "w/logs/merged.log").read_text()
    assert merged == result.stderr  # both starts
    lines = [line for line in merged.splitlines() if not line.startswith("jaxdp: ")]
    expected = [f"[{p}] line {i} of {p}: {'0' * 40000} end" for p in range(3) for i in range(1, 6)]
    assert sorted(lines) == sorted(expected * 2)
    for index in range(3):  # the order of each process
        own = [line for line in lines if line.startswith(f"[{index}]")]
        assert own == [line for line in expected if line.startswith(f"[{index}]")] * 2


def test_progress_bars_and_ends_without_a_newline_make_lines(group):
    result = group.run([r"mkdir ../w; printf 'a\n\n 10%%\r 90%%\r100%%\nwindows\r\n\xff'; printf last >&2"])
    assert result.returncode == 0
    written = (group.root / "w/logs/merged.log").read_bytes()
    assert written == b"[0] a\n[0] \n[0] 100%\n[0] windows\n[0] \xfflast\n"


def test_a_line_without_end_is_written_in_parts(group, process_group):
    size = process_group.MAX_LINE_BYTES + 2**17
    group.run([f"mkdir ../w; printf '%0{size}d' 0"])
    lines = (group.root / "w/logs/merged.log").read_text().splitlines()
    assert len(lines) == 2 and sum(line.count("0") for line in lines) == size + 2  # with those of [0]


def test_a_refused_configuration_leaves_nothing_behind(group):
    result = group.run(["echo refused; exit 2"])
    assert (result.returncode, result.stderr.splitlines()[0]) == (2, "[0] refused")
    assert not (group.root / "w").exists()


@pytest.mark.parametrize("workdir", ["gs://bucket/run", "w"])
def test_without_a_local_work_directory_the_log_is_on_stderr_only(group, workdir):
    (group.root / "w/logs/merged.log").mkdir(parents=True)
    result = group.run(["echo hello"], command=["train", f"--workdir={workdir}"])
    assert (result.returncode, "[0] hello" in result.stderr) == (0, True)
    assert ("w/logs/merged.log cannot be written" in result.stderr) == (workdir == "w")


def test_a_run_survives_its_terminal(group):
    read, write = os.pipe()
    os.close(read)
    process = group.start(["mkdir ../w; for i in 1 2 3; do echo $i; sleep 0.05; done"], stderr=write)
    os.close(write)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (group.root / "w/logs/merged.log").read_text() == "[0] 1\n[0] 2\n[0] 3\n"


@pytest.mark.parametrize(
    ("arguments", "workdir"),
    [
        (["train", "--workdir=a b"], "a b"),
        (["train", "--workdir", "c", "--config=x"], "c"),
        (["train", "--workdir=a", "--workdir=b"], "b"),
        (["train", "--workdir"], None),
        (["train", "--config.workdir=x"], None),
    ],
)
def test_the_work_directory_is_the_last_one_given(process_group, arguments, workdir):
    assert process_group.workdir_of(arguments) == workdir


# ---- multiprocess.sh


def run_script(machine, *arguments, **variables):
    machine.python("python3.12")
    return machine.run("launch/multiprocess.sh", *arguments, **variables)


def jaxdp_lines(result):
    return [shlex.split(line) for line in result.stdout.splitlines() if "jaxdp train" in line]


def test_a_dry_run_prints_the_environment_the_supervisor_and_every_process(machine):
    result = run_script(
        machine,
        "--dry_run",
        "--processes=2",
        "--cpu_devices=3",
        "--restarts=4",
        "--",
        "train",
        "--config=my c.py",
        "--workdir=w",
    )
    assert result.returncode == 0, result.stderr
    *environment, supervisor, first, second = map(shlex.split, result.stdout.splitlines())
    assert environment[-1] == ["export", f"PATH={machine.venv}/bin:$PATH"]
    own = [str(machine.repository / "launch/process_group.py"), "--processes=2", "--restarts=4", "--cpu_devices=3"]
    assert supervisor == ["python", *own, "--gpus_each=0", "--", "train", "--config=my c.py", "--workdir=w"]
    for index, line in enumerate((first, second)):
        assert line[:5] == ["jaxdp", "train", "--config=my c.py", "--workdir=w", "--cpu_devices=3"]
        assert re.fullmatch(r"--coordinator=127.0.0.1:\d+", line[5])
        assert line[6:] == ["--num_processes=2", f"--process_index={index}"]
    assert first[5] == second[5]
    assert "again up to 4 times after exit codes 70, 75, 134, 137, 143" in result.stderr
    assert machine.calls() == [] and not machine.venv.exists()


def test_the_script_trains_in_the_environment_with_unchanged_arguments(machine):
    result = run_script(machine, "--cpu_devices=3", "--", "train", "--workdir=w", *HARD, "--dry_run", JAXDP_STATUS="3")
    assert result.returncode == 3
    assert machine.calls()[-1] == ["jaxdp", "train", "--workdir=w", *HARD, "--dry_run", "--cpu_devices=3"]
    assert f"[0] in {machine.repository}\n" in result.stderr


@pytest.mark.parametrize(
    ("processes", "visible", "devices"),
    [(4, None, ["0", "1", "2", "3"]), (2, None, ["0,1", "2,3"]), (2, "5,7", ["0", "1"]), (1, None, [None])],
)
def test_gpus_are_divided_among_the_processes(machine, processes, visible, devices):
    gpus = "\\n".join(f"GPU {index}: NVIDIA H100" for index in range(4))
    machine.script("nvidia-smi", f"""case "$*" in -L) printf '{gpus}\\n' ;; *) echo '| CUDA Version: 12.8 |' ;; esac""")
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    result = run_script(machine, "--dry_run", f"--processes={processes}", "--", "train", "--workdir=w", **variables)
    assert result.returncode == 0, result.stderr
    own = [f"JAX_LOCAL_DEVICE_IDS={ids}" for ids in devices if ids is not None]
    lines = jaxdp_lines(result)[-processes:]
    assert [line[1] for line in lines if line[0] == "env"] == own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected -- train --config=FILE --workdir=DIR after the options, found nothing"),
        (["--", "eval"], "expected -- train --config=FILE --workdir=DIR after the options, found eval"),
        (["train"], "expected an option or -- before the arguments of jaxdp, found train"),
        (["--config=c"], "expected an option or -- before the arguments of jaxdp, found --config=c"),
        (["--restarts=many", "--", "train"], "--restarts=many must be a whole number of at least 0"),
        (["--processes=0", "--", "train"], "--processes=0 must be a whole number of at least 1"),
        (["--processes=", "--", "train"], "--processes= must be a whole number of at least 1"),
        (["--", "train", "--config=c"], "--workdir=DIR is missing after -- train"),
        (["--", "train", "--workdir"], "--workdir=DIR is missing after -- train"),
        (["--", "train", "--workdir=a", "--workdir="], "--workdir=DIR is missing after -- train"),
        (["--processes=2", "--", "train", "--workdir=w"], "without an NVIDIA GPU needs --cpu_devices=K"),
        (
            ["--cpu_devices=1", "--", "train", "--workdir=w", "--cpu_devices=4"],
            "--cpu_devices is given before and after --; leave out that after --",
        ),
        (
            ["--processes=2", "--cpu_devices=1", "--", "train", "--workdir", "w", "--num_processes=2"],
            "--num_processes after -- is set by --processes=2; leave it out",
        ),
    ],
)
def test_options_are_checked_before_anything_is_installed(machine, arguments, message):
    for options in ([], ["--dry_run"]):
        result = run_script(machine, *options, *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr and result.stderr.count("\n") == 1
        assert not machine.venv.exists()


def test_gpus_that_the_processes_do_not_divide_are_refused(machine):
    result = run_script(machine, "--processes=2", "--", "train", "--workdir=w", CUDA_VISIBLE_DEVICES="0,1,2")
    assert result.returncode == 2
    assert "--processes=2 must divide the number of GPUs, which is 3" in result.stderr


def test_a_dry_run_before_uv_has_brought_a_python_says_what_is_missing(machine):
    machine.script("uv", "exit 1")
    result = machine.run("launch/multiprocess.sh", "--dry_run", "--", "train", "--workdir=w")
    assert result.returncode == 2
    assert "uv python install" in result.stdout and "process_group.py --processes=1" in result.stdout
    assert "the commands of the processes are printed once this machine has Python" in result.stderr
