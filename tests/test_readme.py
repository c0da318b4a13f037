"""The README names what exists: its map of files, its links, its commands and configurations."""

import importlib
import re
from pathlib import Path

import pytest
from tiny_runs import compilation_cache, config_file, metrics_lines, train

from jaxdp import tasks
from jaxdp.cli.main import COMMANDS

__all__ = ["compilation_cache", "config_file"]

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


def test_the_task_of_the_readme_learns_as_the_built_in_one(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.task, "_FACTORIES", tasks.registered_tasks())
    [source] = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "register_task" in block)
    (tmp_path / "next_token.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("next_token")
    losses = {}
    for name in ("next_token", "causal_lm"):
        assert train(config_file, tmp_path / name, f"--config.task={name}") == 0
        losses[name] = [line["train/loss"] for line in metrics_lines(tmp_path / name, "train/loss")]
    assert losses["next_token"] == pytest.approx(losses["causal_lm"], rel=1e-5)


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
