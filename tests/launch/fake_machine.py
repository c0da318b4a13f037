"""Fake machine for launch scripts: a clone of the repository, and fake executables that record their arguments."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2]
BASH = shutil.which("bash")
# All that the scripts may need of a machine besides Python.
TOOLS = shlex.split(
    "bash cat cksum cp dirname env find grep ln ls mkdir nohup readlink rm sed seq sleep tail touch uname"
)

HARD = ["--config=c.py", "--config.data.path=a  'b' \"c\" $(date) `id` $HOME * \\n\nd", ""]
"""Arguments that a shell would change."""

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
case "$1" in *process_group.py) exec {real} "$@" ;; esac
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
        text = PYTHON.format(
            bash=BASH, real=sys.executable, version=version, missing=missing, calls=self.calls_file, state=self.state
        )
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
