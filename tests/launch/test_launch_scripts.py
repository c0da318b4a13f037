"""All launch scripts: shellcheck, --help, --dry_run, the image, and the commands of docs/clusters.md."""

import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from fake_machine import SOURCE

SCRIPTS = sorted(path for path in (SOURCE / "launch").glob("*.sh") if path.read_text().startswith("#!"))
SOURCED = sorted(path for path in (SOURCE / "launch").glob("*.sh") if path not in SCRIPTS)


def name(path):
    return path.name


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs the extra test")
def test_shellcheck_finds_nothing():
    scripts = [*SCRIPTS, *SOURCED, SOURCE / ".ci/run"]
    result = subprocess.run(["shellcheck", "-x", "-P", str(SOURCE), *map(str, scripts)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_hadolint_finds_nothing():
    result = subprocess.run(["hadolint", str(SOURCE / "launch/Dockerfile")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_help_is_the_comment_at_the_top_and_does_nothing(machine, script):
    before = sorted(machine.root.rglob("*"))
    result = machine.run(f"launch/{script.name}", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"launch/{script.name}" in result.stdout and "--dry_run" in result.stdout
    assert not re.search(r"^#|SBATCH|set -euo", result.stdout, re.MULTILINE)
    assert sorted(machine.root.rglob("*")) == before


def test_no_function_of_the_scripts_exists_twice():
    names = [found for path in [*SCRIPTS, *SOURCED] for found in re.findall(r"^(\w+)\(\) \{", path.read_text(), re.M)]
    assert sorted(names) == sorted(set(names))


# ---- Image


def instructions(keyword):
    text = (SOURCE / "launch/Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.split(maxsplit=1)[:1] == [keyword]]


def test_the_image_copies_what_exists_and_the_package_is_built_from(machine):
    sources = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert [source for source in sources if not (SOURCE / source).exists()] == []
    ignored = (SOURCE / "launch/Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(sources)
    pod = machine.run("launch/tpu_pod.sh", "--dry_run", "install", "pod").stdout
    copied = re.search(r"--recurse (.*) pod:jaxdp/", pod)[1].split()
    assert sorted(copied) == sorted(sources)


@pytest.mark.parametrize("extra", ["", "cuda12", "tpu"])
def test_the_image_installs_as_the_scripts_do(machine, extra):
    machine.python("python3.12")
    [command] = instructions("RUN")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=machine.repository, env=machine.environment(EXTRA=extra), capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert machine.calls()[-1][-1] == (f".[{extra}]" if extra else ".")
    assert instructions("ENV") == ["PATH=/jaxdp/.venv/bin:$PATH"] and instructions("WORKDIR") == ["/jaxdp"]
    assert machine.venv == machine.repository / ".venv"  # what PATH names
    assert instructions("ENTRYPOINT") == ['["jaxdp"]']


# ---- docs/clusters.md


def commands():
    """Commands of the page, joined over line ends."""
    text = (SOURCE / "docs/clusters.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def launches():
    return [line for line in commands() if "launch/" in line]


def test_the_page_shows_every_launcher():
    shown = " ".join(launches())
    assert [path.name for path in SCRIPTS if path.name not in ("local.sh", "test.sh") and path.name not in shown] == []
    assert "launch/Dockerfile" in shown


@pytest.mark.parametrize("line", launches())
def test_launches_of_the_page_run(machine, line):
    """Each launcher of the page accepts its line: as a dry run, and `gke.sh` as the YAML that it prints."""
    machine.python("python3.12")
    before, _, after = line.partition(" | ")
    words = shlex.split(before, comments=True)
    if words[0] == "docker":
        assert words[:2] == ["docker", "build"] and words[-1] == "."
        assert (SOURCE / words[words.index("--file") + 1]).is_file()
        [extra] = re.findall(r"EXTRA=(\S+)", line)
        assert f"\n{extra} = [" in (SOURCE / "pyproject.toml").read_text()
        return
    position = next(index for index, word in enumerate(words) if word.startswith("launch/"))
    script, arguments = words[position], words[position + 1 :]
    assert words[0] == ("sbatch" if script == "launch/slurm.sh" and "--dry_run" not in arguments else "bash")
    dry = [] if "--dry_run" in arguments else ["--dry_run"]
    result = machine.run(script, *dry, *arguments, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7")
    assert result.returncode == 0, result.stderr
    assert result.stdout
    if after:
        assert after == "kubectl apply -f -"
        assert yaml.safe_load(result.stdout)["kind"] == "JobSet"
