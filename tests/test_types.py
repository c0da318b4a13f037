"""Types of the package and of programs that use it, as pyright (basic mode) checks them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def complaints(folder: Path, **environment: str) -> str:
    """Returns what pyright reports about a folder with a configuration of it; empty for nothing."""
    command = (sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", str(folder), "--warnings")
    # The package is complete: this variable keeps it from asking the network for a newer version of itself.
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"} | environment
    outcome = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return "" if outcome.returncode == 0 else outcome.stdout + outcome.stderr


def test_the_package_has_no_type_error():
    assert not complaints(ROOT)


def test_a_program_that_uses_the_package_has_no_type_error(tmp_path):
    """The package is found as an installed one is: types that it does not export would be Unknown or refused."""
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "basic", "pythonVersion": "3.11"}')
    shutil.copy(ROOT / "tests" / "typed_user.py", tmp_path)
    for recipe in (ROOT / "configs").glob("*.py"):
        shutil.copy(recipe, tmp_path)
    for page in (ROOT / "README.md", DOCS / "python.md", DOCS / "extending.md"):
        examples = re.findall(r"^(.*)\n\n```python\n((?s:.*?))^```", page.read_text(), re.MULTILINE)
        for number, (before, source) in enumerate(examples):
            name = re.search(r"example, `(\w+\.py)`:$", before)
            (tmp_path / (name[1] if name else f"{page.stem}_{number}.py")).write_text(source)
    assert len(list(tmp_path.glob("*.py"))) > 20
    assert not complaints(tmp_path, PYTHONPATH=str(ROOT))
