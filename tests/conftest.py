"""Eight fake CPU devices, rank promotion as an error, fast compilation and a cache of its own, for every test."""

import gc
import os
import signal

# Compilation is most of the time of the tests. LLVM without its optimisation passes takes about half as long, and changes
# no operation: only how sums round. Modules marked `optimized` compile as users do, and all do so under
# JAX_DISABLE_MOST_OPTIMIZATIONS=0.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, also in the processes that tests start
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


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
