"""Eight fake CPU devices, rank promotion as an error, fast compilation and a cache of its own, for every test."""

import gc
import os
import signal
from pathlib import Path

# Compilation is most of the time of the tests. LLVM without its optimisation passes takes about half as long, and changes
# no operation: only how sums round. Modules marked `optimized` compile as users do, and all do so under
# JAX_DISABLE_MOST_OPTIMIZATIONS=0.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, also in the processes that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as it is in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


TESTS = Path(__file__).parent
FAST = (
    "data", "hardware", "hooks", "optim", "tasks", "test_accelerator_report.py", "test_architecture.py", "test_cache_home.py", "test_checksum.py", "test_config.py",
    "test_config_diff.py", "test_encodings.py", "test_json_files.py", "test_language.py", "test_metrics.py", "test_paths.py",
    "test_quoting.py", "test_redact.py", "test_state.py", "test_trees.py", "test_workdir.py",
)  # fmt: skip
"""Folders and files of the fast tier: a new file in such a folder belongs to it."""

NOT_FAST = (
    "data/demo_corpora/test_stdlib.py", "data/preparing/test_workers.py", "data/reading/test_register_source.py", "data/test_assembly.py",
    "data/test_cache_keys.py", "data/test_data_damage.py",
    "data/test_eval_selection.py", "data/tokenizers/test_trained.py", "data/tokenizers/test_vetting.py", "tasks/test_task_conformance.py",
)  # fmt: skip
"""Files in those folders that start processes, train whole runs or take seconds otherwise."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the tests of the fast tier."""
    gone = [name for name in (*FAST, *NOT_FAST) if not (TESTS / name).exists()]
    if gone:
        raise pytest.UsageError(
            f"FAST and NOT_FAST in tests/conftest.py name {', '.join(gone)}, which do not exist; correct them."
        )
    for item in items:
        path = item.path.relative_to(TESTS)
        is_fast = path.parts[0] in FAST and path.as_posix() not in NOT_FAST
        if is_fast and item.get_closest_marker("slow") is None:
            item.add_marker("fast")


def pytest_collection_finish():
    """Leaves what exists now, modules and test items, out of later garbage collections: `programs_freed` makes one for
    each file of tests, and each would walk through all of it for half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """Where prepared data goes, of the tests and of the processes that they start."""
    directory = tmp_path_factory.getbasetemp() / "cache_home"
    os.environ["XDG_CACHE_HOME"] = str(directory)
    return directory


@pytest.fixture(scope="module", autouse=True)
def optimized_programs(request):
    """Compiles as users do in modules marked `optimized`, also in the processes that they start."""
    if request.node.get_closest_marker("optimized") is None:
        yield
        return
    before = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", before != "0")


@pytest.fixture(scope="module", autouse=True)
def programs_freed():
    """Frees compiled programs after each file of tests: each is mapped memory, and a process may have 65,530 maps,
    beyond which XLA crashes while it compiles."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards the parameters of models far smaller than those that are sharded otherwise."""
    from jaxdp.parallel import layout

    monkeypatch.setattr(layout, "MIN_SHARDED_ELEMENTS", 64)
