"""The house: imports go strictly down the floors, and some names stay in one file."""

import ast
import re
from pathlib import Path

import pytest
from floors import FLOORS

ROOT = Path(__file__).parents[1] / "jaxdp"

SAME_FLOOR = {
    ("parallel", "state"),
    ("trees", "typing"),
    ("streams", "redact"),
    ("metrics", "errors"),
    ("json_files", "errors"),
    ("paths", "errors"),
    ("storage", "errors"),
    ("storage", "json_files"),
    ("safetensors_file", "json_files"),
    ("checksum", "typing"),
    ("arguments", "errors"),
    ("run_config", "errors"),
    ("run_config", "config_values"),
    ("config_values", "errors"),
    ("arguments", "quoting"),
    ("arguments", "signatures"),
    ("signatures", "errors"),
    ("signatures", "nearest"),
    ("hardware", "errors"),
    ("data", "report"),
    ("data", "cache_home"),
    ("data", "workdir"),
    ("report", "cache_home"),
    ("report", "config"),
    ("report", "config_file"),
    ("report", "defaults"),
    ("report", "watchdog"),
    ("report", "workdir"),
    ("cache_home", "report"),
    ("evaluation", "step"),
    ("evaluation", "decoding"),
    ("interop", "checkpoint"),
    ("hooks", "trainer"),
    ("training", "inference"),
    ("config", "defaults"),
    ("config", "config_file"),
    ("config_diff", "config"),
    ("config_diff", "defaults"),
    ("config_file", "defaults"),
    ("__main__", "cli"),
    ("cli", "__init__"),
}
"""(part, part that it may import from its own floor)."""

FILES = sorted(path for path in ROOT.rglob("*.py"))
FLOOR_OF = {part: number for number, parts in enumerate(FLOORS) for part in parts}


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_names(tree):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def spelled_names(tree):
    """Every identifier and dotted import of a file; comments and strings do not count."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "module"):
            if isinstance(getattr(node, field, None), str):
                yield from getattr(node, field).split(".")


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def source(request):
    return request.param, ast.parse(request.param.read_text())


def test_imports_go_down(source):
    path, tree = source
    part = part_of(path)
    for name in imported_names(tree):
        if name.split(".")[0] != "jaxdp":
            continue
        imported = name.split(".")[1]
        imported = imported if imported in FLOOR_OF else "__init__"  # __version__ and the like
        lower = FLOOR_OF[imported] < FLOOR_OF[part]
        assert lower or imported == part or (part, imported) in SAME_FLOOR, f"{part} imports {name}"


def test_names_that_stay_in_their_place(source):
    path, tree = source
    names, imports = set(spelled_names(tree)), set(imported_names(tree))
    assert not names & {"_src", "pickle", "cloudpickle", "dill"}
    assert "default_backend" not in names, "the platform is that of the topology, which may be compiled for from a CPU"
    if path != ROOT / "parallel" / "spmd.py":
        assert not names & {"pmap", "shard_map"}
    if FLOOR_OF[part_of(path)] < FLOOR_OF["training"] and path.stem not in ("config", "config_file", "defaults"):
        assert not any(name.startswith("ml_collections") for name in imports)
    if part_of(path) == "model":
        assert not names & {"pmean", "psum", "all_gather"}
    if part_of(path) == "tasks":
        assert not names & {"pmean", "psum", "all_gather"}
    if part_of(path) == "data":
        assert not any(name.split(".")[0] in ("jax", "flax", "optax") for name in imports)
    if path.stem in ("step", "trainer"):
        assert not names & {"causal_lm", "CausalLM", "masked_lm", "classification", "seq2seq"}


def callables_of(node):
    """Annotations of a class's constructor or dataclass fields that are functions."""
    fields = [field for field in node.body if isinstance(field, ast.AnnAssign)] if node.decorator_list else []
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            fields += [*method.args.args, *method.args.kwonlyargs]
    return [
        field
        for field in fields
        if field.annotation and re.search("Callable|CheckPlace", ast.unparse(field.annotation))
    ]


def test_no_constructor_takes_more_than_three_functions(source):
    _, tree = source
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and len(callables_of(node)) > 3]


def test_functions_of_constructors_are_counted():
    text = "class A:\n    def __init__(self, a: Callable[[], int], b: CheckPlace, *, c: Callable | None = None, d: int = 0): ..."
    assert len(callables_of(ast.parse(text).body[0])) == 3


def test_every_part_has_a_floor():
    parts = {part_of(path) for path in FILES}
    assert parts <= FLOOR_OF.keys()


def test_no_part_is_a_grab_bag():
    names = {path.stem for path in FILES}
    assert not names & {"utils", "helpers", "common", "misc", "manager"}


def test_no_two_test_files_have_one_name():
    """Test folders are not packages, so pytest imports files by name: a second file of a name is an error in the run that reaches both."""
    paths = sorted(Path(__file__).parent.rglob("test_*.py"))
    same = {path.name: [str(p) for p in paths if p.name == path.name] for path in paths}
    assert len(paths) > 50
    assert not {name: found for name, found in same.items() if len(found) > 1}
