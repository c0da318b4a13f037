"""README and docs/ name what exists: links, paths, commands, keys and recipes; examples run; generated pages are up to date."""

import argparse
import ast
import copy
import csv
import fnmatch
import importlib
import io
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import compilation_cache, config_file, environment, load, metrics_lines, setup_of, train, trained

import jaxdp
from jaxdp import defaults, tasks
from jaxdp.cli.main import COMMANDS
from jaxdp.config import load_config
from jaxdp.config_file import flat_keys, recipes_directory
from jaxdp.data.cleaning.steps import STEPS
from jaxdp.data.reading import sources
from jaxdp.errors import UserError
from jaxdp.hooks import registry
from jaxdp.model.presets import PRESETS
from jaxdp.optim import registry as optim_registry
from jaxdp.parallel.strategies import STRATEGIES
from jaxdp.report import writer_registry

__all__ = ["compilation_cache", "config_file", "trained"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *DOCS.rglob("*.md")])
RECIPES = sorted((ROOT / "configs").glob("*.py"))
KEYS = flat_keys(defaults.get_config())
GROUPS = [key for key in KEYS if f"{key}." in " ".join(KEYS) and "." not in key]

sys.path.insert(0, str(DOCS))
import generate  # noqa: E402


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(params=PAGES, ids=name)
def page(request):
    return request.param


def blocks(text, language):
    """Code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def spans(text):
    """Code spans outside blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def section(page_name, heading):
    """Text below a heading of a page, up to the next heading."""
    return re.split(
        r"^## ", (DOCS / page_name).read_text().split(f"## {heading}\n")[1], maxsplit=1, flags=re.MULTILINE
    )[0]


def test_generated_pages_are_up_to_date():
    for page_name, make in generate.PAGES.items():
        text = (DOCS / page_name).read_text()
        assert make(text) == text, f"docs/{page_name} is out of date: run `python docs/generate.py`"


def anchors(path):
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_links_of_the_site_stay_inside_it(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if page.is_relative_to(DOCS) and "://" not in link:
            assert (page.parent / link).resolve().is_relative_to(DOCS), (
                f"{link}: name files outside docs/ in code spans"
            )


def test_paths_exist(page):
    paths = [
        span
        for span in spans(page.read_text())
        if re.fullmatch(r"(jaxdp|configs|tests|launch|docs|examples)/[\w./]+", span)
    ]
    assert [path for path in paths if not (ROOT / path).exists() and not (ROOT / "jaxdp" / path).exists()] == []


def test_keys_exist(page):
    keys = [
        re.split(r"[= ]", span)[0]
        for span in spans(page.read_text())
        if "(" not in span and "/" not in span.split("=")[0]
    ]
    keys = [key for key in keys if "." in key and key.split(".")[0] in GROUPS]
    assert [key for key in keys if not fnmatch.filter(KEYS, key)] == []


# ---- Commands ---------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser for fragments of commands: nothing is required, and a mistake is an exception."""

    def add_argument(self, *names, **options):
        if options.get("required"):
            options["required"] = False
        if not names[0].startswith("-"):
            options["nargs"] = "*"
        return super().add_argument(*names, **options)

    def error(self, message):
        raise UserError(message)


def commands_of(text):
    """Commands of bash blocks, and of code spans that have options."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    lines += [span for span in spans(text) if re.match(r"(jaxdp|python \S+\.py|bash|sbatch) .*-", span)]
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def commands_of_recipe(path):
    """Commands of the docstring of a recipe."""
    text = path.read_text().split('"""')[1].replace("\\\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.startswith("    jaxdp ")]


def without_placeholders(words):
    """Single capitals stand for numbers, `...` for further options."""
    return [re.sub(r"=[A-Z]$", "=1", word) for word in words if word != "..."]


def check_jaxdp(words):
    """Parses one command with the options of the command line and the keys of the configuration."""
    command, *arguments = without_placeholders(words)
    if command in ("--help", "--version", "COMMAND"):
        return
    assert command in COMMANDS, command
    module = importlib.import_module(f"jaxdp.cli.{command}")
    parser = Parser(prog=f"jaxdp {command}", allow_abbrev=False)
    module.add_options(parser)
    options, rest = parser.parse_known_args(arguments)
    assert all(argument.startswith("--config.") for argument in rest), rest
    for argument in rest:
        assert argument.removeprefix("--config.").partition("=")[0] in KEYS, argument
    recipe = Path(getattr(options, "config", None) or "FILE")
    if recipe.suffix == ".py" or recipe.stem in {path.stem for path in RECIPES}:
        assert (ROOT / recipe).is_file() or (recipes_directory() / f"{recipe}.py").is_file(), recipe
        load_config(str(ROOT / recipe) if recipe.suffix else str(recipe), rest)


def check_command(line):
    """Checks one line of a shell: `jaxdp`, or a script of the repository that exists."""
    program, *words = shlex.split(line, comments=True)
    if program == "python" and re.fullmatch(r"\w+\.py", words[0]):  # an example of extending.md
        program, words = "jaxdp", words[1:]
    if program == "jaxdp":
        return check_jaxdp(words)
    for word in words:
        if re.fullmatch(r"(launch|tests|docs)/\S+\.\w+", word):
            assert (ROOT / word).is_file(), word


def test_commands_parse(page):
    for line in commands_of(page.read_text()):
        try:
            check_command(line)
        except (UserError, argparse.ArgumentError) as error:
            pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_commands_of_recipes_parse(recipe):
    commands = commands_of_recipe(recipe)
    assert any(f"--config=configs/{recipe.name}" in command for command in commands)
    for line in commands:
        check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "jaxdp trian --config=quickstart", "jaxdp train --config=quickstart --config.optim.lr=1", "jaxdp eval --steps=latest",
        "jaxdp train --config=configs/quick.py", "jaxdp train --config=quickstart --config.total_steps=x", "bash launch/locl.sh",
    ],
)  # fmt: skip
def test_wrong_commands_are_found(line):
    with pytest.raises((AssertionError, UserError)):
        check_command(line)


# ---- What must be complete --------------------------------------------------


def test_every_command_is_described():
    assert set(re.findall(r"^\| `jaxdp (\w+)`", (DOCS / "commands.md").read_text(), re.MULTILINE)) == set(COMMANDS)


def test_every_recipe_is_described():
    described = re.findall(r"^\| `configs/(\w+)\.py`", section("configuration.md", "Recipes"), re.MULTILINE)
    assert sorted(described) == [path.stem for path in RECIPES]


def test_every_preset_is_named():
    named = spans(section("configuration.md", "Presets"))
    assert set(named) - {"model.preset"} == set(PRESETS)


def test_every_cleaning_step_is_described():
    rows = [row for row in section("data.md", "Cleaning").splitlines() if row.startswith("| `")]
    described = {step.partition(":")[0] for row in rows for step in spans(row.split(" | ")[0])}
    assert described == {step.partition(":")[0] for step in STEPS}


def test_every_key_has_a_row():
    described = re.findall(r"^\| `([\w.]+)` \|", section("configuration.md", "Keys"), re.MULTILINE)
    assert sorted(described) == sorted(set(KEYS) - set(GROUPS))


def test_every_page_is_in_the_table_of_contents():
    for table in (ROOT / "README.md", DOCS / "index.md"):
        targets = {(table.parent / link).resolve() for link in re.findall(r"\]\(([^)#]+\.md)", table.read_text())}
        assert {path for path in PAGES if path.is_relative_to(DOCS)} - targets <= {DOCS / "index.md"}, name(table)


def string_literals():
    """All string literals of the package, with `...` for the values in them."""
    for path in (ROOT / "jaxdp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_of_troubleshooting_exist():
    text = (DOCS / "troubleshooting.md").read_text().split("## Symptoms")[0]
    messages = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert len(messages) > 30
    literals = "\n".join(string_literals())
    fragments = [fragment.strip() for message in messages for fragment in message.replace("(...)", "...").split("...")]
    assert [fragment for fragment in fragments if len(fragment) > 7 and fragment not in literals] == []


# ---- Python -----------------------------------------------------------------


def test_python_blocks_compile(page):
    for block in blocks(page.read_text(), "python"):
        compile(block, name(page), "exec")


def test_keys_of_python_blocks_exist(page):
    code = "\n".join(blocks(page.read_text(), "python"))
    keys = re.findall(r"--config\.([\w.]+)=", code) + re.findall(r"^ *config\.([\w.]+) = ", code, re.MULTILINE)
    assert [key for key in keys if key not in KEYS] == []


def test_the_task_of_extending_learns_as_the_built_in_one(config_file, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.task, "_FACTORIES", tasks.registered_tasks())
    [source] = (block for block in blocks((DOCS / "extending.md").read_text(), "python") if "register_task" in block)
    (tmp_path / "next_token.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("next_token")
    assert train(config_file, tmp_path / "run", "--config.task=next_token") == 0
    losses, expected = (
        [line["train/loss"] for line in metrics_lines(run, "train/loss")] for run in (tmp_path / "run", trained)
    )
    assert losses == pytest.approx(expected, rel=1e-5) and len(losses) == 6


def test_the_source_of_extending_trains(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    [source] = (block for block in blocks((DOCS / "extending.md").read_text(), "python") if "register_source" in block)
    (tmp_path / "poems.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("poems")
    database = sqlite3.connect(tmp_path / "poems.db")
    database.execute("CREATE TABLE poems (id INTEGER, title TEXT, body TEXT)")
    database.executemany(
        "INSERT INTO poems VALUES (?, ?, ?)", [(n, f"title {n}", f"old pond, frog {n}\nwater\n") for n in range(200)]
    )
    database.commit()
    database.close()
    given = ("--config.data.source=poems", f"--config.data.path={tmp_path}/poems.db", "--config.total_steps=2")
    given += ("--config.eval.every_steps=0",)
    assert train(config_file, tmp_path / "run", *given) == 0
    assert len(metrics_lines(tmp_path / "run", "train/loss")) == 2


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Imports an example of extending.md by the name of its file; what it registers is gone after the test."""
    tables = (registry.HOOKS, writer_registry.WRITERS, optim_registry.DIRECTIONS, optim_registry.SCHEDULES, STRATEGIES)
    before = [dict(table) for table in tables]
    text = (DOCS / "extending.md").read_text()
    monkeypatch.syspath_prepend(tmp_path)

    def run(file, **replaced):
        source = blocks(text.split(f"example, `{file}.py`:")[1], "python")[0]
        for old, new in replaced.items():
            assert old in source
            source = source.replace(old, new)
        (tmp_path / f"{file}.py").write_text(source)
        importlib.import_module(file)

    yield run
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def test_the_hook_of_extending_logs_the_norm_of_the_parameters(example, config_file, tmp_path):
    example("parameter_norm", **{"100 == 0": "3 == 0"})
    assert train(config_file, tmp_path / "run", "--config.eval.every_steps=0") == 0
    lines = metrics_lines(tmp_path / "run", "train/param_norm")
    assert [line["step"] for line in lines] == [3, 6]
    params = jax.tree.leaves(jaxdp.load_checkpoint(tmp_path / "run", weights="raw").params)
    expected = np.sqrt(sum(np.square(np.float64(leaf)).sum() for leaf in params))
    assert lines[-1]["train/param_norm"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow  # tests/training/test_own_optimizer.py has another
def test_the_optimizer_and_the_schedule_of_extending_train(example, config_file, tmp_path):
    example("belief")
    given = ("--config.optim.name=adabelief", "--config.optim.schedule=halving", "--config.optim.learning_rate=0.01")
    assert train(config_file, tmp_path / "run", *given) == 0
    rates = [line["train/learning_rate"] for line in metrics_lines(tmp_path / "run", "train/learning_rate")]
    expected = [0.01 * (count + 1) / 3 if count < 2 else 0.01 * 0.5 ** (4 * count // 6) for count in range(6)]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_the_strategy_of_extending_moves_parameters_by_the_vote_of_the_devices(example, config_file, tmp_path):
    example("majority_vote")
    given = ("parallel.sync=majority_vote", "optim.name=sgd", "optim.clip_norm=0", "optim.weight_decay=0")
    given += (
        "optim.learning_rate=0.01",
        "optim.end_learning_rate=0.01",
        "optim.warmup_steps=0",
        "total_steps=1",
        "eval.every_steps=0",
    )
    assert train(config_file, tmp_path / "run", *(f"--config.{key}" for key in given)) == 0
    after = jaxdp.load_checkpoint(tmp_path / "run", weights="raw").params
    before = jax.device_get(setup_of(load(config_file, *given)).fresh_state().params)
    moves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.tree.map(np.subtract, after, before))])
    # Each parameter moves by the learning rate, or stays where the votes are equal.
    np.testing.assert_allclose(np.abs(moves[np.abs(moves) > 0.005]), 0.01, rtol=1e-4)
    assert np.abs(moves[np.abs(moves) <= 0.005]).max() < 1e-6 and np.count_nonzero(moves > 0.005) > 0.1 * moves.size


def test_the_writer_of_extending_receives_every_metric(example, config_file, tmp_path):
    example("csv_writer")
    assert train(config_file, tmp_path / "run") == 0
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = [(int(step), name, value) for step, name, value in csv.reader(file)]
    lines = metrics_lines(tmp_path / "run", "step")
    expected = [(line["step"], name) for line in lines for name in line if name not in ("step", "time")]
    assert [(step, name) for step, name, _ in rows] == expected
    losses = [float(value) for _, name, value in rows if name == "train/loss"]
    assert losses == [line["train/loss"] for line in lines if "train/loss" in line]


def test_the_background_writer_of_extending_posts_evaluations(example, config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_URL", "http://localhost/metrics")
    posted = []

    def urlopen(request, timeout):
        posted.append((request.full_url, json.loads(request.data)))
        if len(posted) == 1:
            raise urllib.error.URLError("refused")
        return io.BytesIO()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    example("post_writer")
    assert train(config_file, tmp_path / "run") == 0
    evaluations = metrics_lines(tmp_path / "run", "eval/loss")
    assert posted[0] == posted[1] and {url for url, _ in posted} == {"http://localhost/metrics"}
    expected = [
        {name: value for name, value in line.items() if name != "time"} | {"run": "run"} for line in evaluations
    ]
    assert [content for _, content in posted[1:]] == expected


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path, compilation_cache):
    [source] = (block for block in blocks((ROOT / "README.md").read_text(), "python") if "jaxdp.train" in block)
    (tmp_path / "example.py").write_text(source)
    variables = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    outcome = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=environment(compilation_cache, **variables),
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("def ") and 1 < float(outcome.stdout.split()[-1]) < 3


# ---- Python API -------------------------------------------------------------


def documented_objects():
    """(name of an object, heading) of every entry of the page of the Python API."""
    return re.findall(
        r"^::: ([\w.]+)(?:\n    options: \{ heading: ([\w.]+))?", (DOCS / "python.md").read_text(), re.MULTILINE
    )


def test_the_page_of_the_python_api_has_every_public_name():
    public = {f"jaxdp.{public}" for public in jaxdp.__all__}
    for entry, heading in documented_objects():
        module, _, attribute = entry.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        if heading:
            assert found is getattr(jaxdp, heading.removeprefix("jaxdp.")), heading
        public.discard(heading or entry)
    assert not public


# ---- Site -------------------------------------------------------------------


def test_every_page_is_in_the_navigation():
    named = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        f"--config-file={ROOT / 'mkdocs.yml'}",
        f"--site-dir={tmp_path / 'site'}",
    ]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "site" / "python" / "index.html").is_file()


# ---- Notebook ---------------------------------------------------------------

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def test_the_notebook_keeps_no_output_but_the_plot():
    outputs = [output for cell in json.loads(NOTEBOOK.read_text())["cells"] for output in cell.get("outputs", ())]
    assert [list(output["data"]) for output in outputs] == [["image/png"]]
    assert all(cell.get("execution_count") is None for cell in json.loads(NOTEBOOK.read_text())["cells"])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """Executes every cell twice in one kernel: the second round continues a finished run."""
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
    pytest.importorskip("ipykernel", reason="needs the extra docs")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells += copy.deepcopy(notebook.cells)
    nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    [evaluated, again] = [
        ast.literal_eval(output["data"]["text/plain"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "eval/loss" in output.get("data", {}).get("text/plain", "")
    ]
    assert evaluated["step"] == 200 and 1 < evaluated["eval/loss"] < 2
    assert again == evaluated
