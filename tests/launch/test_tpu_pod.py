"""launch/tpu_pod.sh with a fake gcloud: each command, its options, and the text that runs on the hosts."""

import shlex
import subprocess
import time

import pytest
from fake_machine import HARD

TPUS = "gcloud compute tpus"


def dry_run(machine, *arguments):
    result = machine.run("launch/tpu_pod.sh", "--dry_run", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            "create pod --type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot --zone=z",
            "tpu-vm create pod --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot --zone=z",
        ),
        (
            "queue pod --type=v6e-16 --version=v2 --zone=z --project=p",
            "queued-resources create pod --node-id=pod --accelerator-type=v6e-16 --runtime-version=v2 --zone=z --project=p",
        ),
        ("status pod", "queued-resources describe pod '--format=value(state.state)'"),
        ("logs pod --worker=3", "tpu-vm ssh pod --worker=3 --command='tail -n 100 -F jaxdp/jaxdp.log'"),
        ("stop pod", """tpu-vm ssh pod --worker=all --command='cd jaxdp && kill -TERM "$(cat jaxdp.pid)"'"""),
        ("delete pod --zone=z", "tpu-vm delete pod --quiet --zone=z"),
        ("delete pod --queued", "queued-resources delete pod --force --quiet"),
    ],
)
def test_a_command_is_one_call_of_gcloud(machine, arguments, command):
    [line] = dry_run(machine, *arguments.split())
    assert shlex.split(line) == shlex.split(f"{TPUS} {command}")
    machine.script("gcloud", f'printf "%s\\n" "$@" >{machine.state}/arguments')
    result = machine.run("launch/tpu_pod.sh", *arguments.split())
    assert result.returncode == 0, result.stderr
    assert (machine.state / "arguments").read_text().splitlines() == shlex.split(line)[1:]


def test_the_installation_copies_what_the_package_is_built_from(machine):
    folder, make, copy, install = (shlex.split(line) for line in dry_run(machine, "install", "pod", "--zone=z"))
    assert folder == ["cd", "--", str(machine.repository)]
    assert make[-2:] == ["--command=mkdir -p jaxdp", "--zone=z"]
    sources = copy[copy.index("--recurse") + 1 : copy.index("pod:jaxdp/")]
    assert {"pyproject.toml", "README.md", "LICENSE", "jaxdp", "configs", "launch"} == set(sources)
    assert install[-2:] == ["--command=cd jaxdp && bash launch/local.sh --version", "--zone=z"]


def test_training_starts_in_the_background_of_every_host_with_unchanged_arguments(machine):
    """The fake gcloud runs the text of the hosts in a folder, as the shell of a login does."""
    machine.python("python3.12")
    (machine.root / "jaxdp").symlink_to(machine.repository)
    machine.script("gcloud", 'for word in "$@"; do case $word in --command=*) exec bash -c "${word#*=}" ;; esac; done')
    result = machine.run("launch/tpu_pod.sh", "train", "pod", "--", "train", "--workdir=w", *HARD, cwd=machine.root)
    assert result.returncode == 0, result.stderr
    pid = int((machine.repository / "jaxdp.pid").read_text())
    end, log = time.monotonic() + 60, machine.repository / "jaxdp.log"
    while "[0] in " not in log.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert machine.calls()[-1] == ["jaxdp", "train", "--workdir=w", *HARD]
    assert pid > 1


def test_a_second_training_is_refused_while_the_first_runs(machine):
    (machine.root / "jaxdp").symlink_to(machine.repository)
    machine.script("gcloud", 'for word in "$@"; do case $word in --command=*) exec bash -c "${word#*=}" ;; esac; done')
    first = machine.script("sleeper", 'echo $$ >"$1"; while :; do sleep 0.05; done')
    process = subprocess.Popen([first, machine.repository / "jaxdp.pid"], env=machine.environment())
    try:
        end = time.monotonic() + 60
        while not (machine.repository / "jaxdp.pid").exists() or not (machine.repository / "jaxdp.pid").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        result = machine.run("launch/tpu_pod.sh", "train", "pod", "--", "train", "--workdir=w", *HARD, cwd=machine.root)
        assert (result.returncode, result.stderr) == (2, "jaxdp: already training; stop it first\n")
        assert not (machine.repository / "jaxdp.log").exists()
        stopped = machine.run("launch/tpu_pod.sh", "stop", "pod", cwd=machine.root)
        assert stopped.returncode == 0, stopped.stderr
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "expected COMMAND and NAME, found 0 arguments"),
        ("train", "expected COMMAND and NAME, found 1 arguments"),
        ("destroy pod", "expected create, queue, status, install, train, logs, stop or delete, found destroy"),
        ("logs --zone=z", "expected the name of a slice after logs, found --zone=z"),
        ("delete pod --spot", "delete has no option --spot"),
        ("train pod --config=c", "train has no option --config=c"),
        ("train pod --", "expected -- train --config=FILE --workdir=DIR after the options, found nothing"),
        ("train pod -- train --config=c", "--workdir=DIR is missing after -- train"),
        ("--dry_run train pod -- train --config=c", "--workdir=DIR is missing after -- train"),
        ("create pod --version=v", "create needs --type=TYPE and --version=VERSION"),
    ],
)
def test_mistakes_are_one_sentence(machine, arguments, message):
    machine.script("gcloud", "exit 9")
    result = machine.run("launch/tpu_pod.sh", *arguments.split())
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_without_gcloud_it_says_what_it_needs(machine):
    result = machine.run("launch/tpu_pod.sh", "delete", "pod")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "jaxdp: gcloud is not on the PATH of this machine: install the Google Cloud CLI and run gcloud auth login\n"
    )


def test_the_status_of_gcloud_comes_back(machine):
    machine.script("gcloud", "exit 9")
    assert machine.run("launch/tpu_pod.sh", "delete", "pod").returncode == 9
