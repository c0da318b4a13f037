"""The README names what exists: its links, commands and configurations; generated pages are up to date."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from tiny_runs import compilation_cache, config_file, metrics_lines, train

from jaxdp import tasks
from jaxdp.cli.main import COMMANDS

__all__ = ["compilation_cache", "config_file"]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

sys.path.insert(0, str(ROOT / "docs"))
import generate  # noqa: E402


def test_generated_pages_are_up_to_date():
    for name, make in generate.PAGES.items():
        page = (ROOT / "docs" / name).read_text()
        assert make(page) == page, f"docs/{name} is out of date: run `python docs/generate.py`"


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
