"""The README names what exists: its map of files, its links, its commands and configurations."""

import re
from pathlib import Path

from jaxdp.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def mapped_files() -> set[str]:
    """Paths in the map: a line ending in `/` opens a folder, deeper lines lie in it."""
    block = README.split("## The map")[1].split("```")[1]
    folders: list[tuple[int, str]] = []
    files = set()
    for line in filter(str.strip, block.splitlines()):
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = "".join(folder for _, folder in folders) + name
        if name.endswith("/"):
            folders.append((indent, name))
        else:
            files.add(path)
    return files


def test_map_lists_exactly_the_files_of_the_package():
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "jaxdp").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    mapped = mapped_files()
    assert {path for path in mapped if path.startswith("jaxdp/")} == package
    assert all((ROOT / path).exists() for path in mapped)


def test_links_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_every_command_is_described():
    described = set(re.findall(r"^\| `jaxdp (\w+)`", README, re.MULTILINE))
    assert described == set(COMMANDS)


def test_every_configuration_is_described():
    described = set(re.findall(r"^\| \[`configs/(\w+)\.py`\]", README, re.MULTILINE))
    assert described == {path.stem for path in (ROOT / "configs").glob("*.py")}


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
