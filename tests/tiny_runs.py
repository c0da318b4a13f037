"""Runs so small that a test can afford many: a text, a configuration, and calls of the command line.

Whole runs compile the same few programs again and again, so all tests of a
session, and the processes that they start, share one compilation cache.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from jaxdp.cli.main import main
from jaxdp.config import load_config, parse_config
from jaxdp.data.assembly import load_dataset
from jaxdp.data.vocabularies import NONE
from jaxdp.tasks.architecture import make_model
from jaxdp.tasks.make import dataset_spec, make_task
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

CONFIG = """
from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.total_steps = 6
    config.global_batch_size = 16
    config.microbatch_size = 1
    config.data.source = "text"
    config.data.path = {text!r}
    config.data.length = 16
    config.model.num_layers = 1
    config.model.num_heads = 2
    config.model.embed_dim = 16
    config.model.dropout_rate = 0.1
    config.optim.ema_decay = 0.9
    config.optim.warmup_steps = 2
    config.parallel.cpu_devices = 8
    config.eval.every_steps = 3
    config.eval.num_batches = 2
    config.checkpoint.every_steps = 3
    config.log.every_steps = 1
    config.log.batch_hash = True
    return config
"""


def write_text(path, num_words=3000, seed=0):
    """Words in a random order, the same at every call."""
    words = ("the", "of", "and", "that", "his", "with", "for", "had", "you", "not", "her", "from", "which", "have")
    drawn = random.Random(seed)
    path.write_text(" ".join(drawn.choice(words) for _ in range(num_words)))


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """One directory of compiled programs for this process and for those it starts."""
    directory = tmp_path_factory.getbasetemp() / "compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax_cache.reset_cache()
    return directory


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """The tiny configuration, with its text beside it."""
    directory = tmp_path_factory.getbasetemp() / "tiny"
    if not directory.exists():
        directory.mkdir()
        write_text(directory / "text.txt")
        (directory / "config.py").write_text(CONFIG.format(text=str(directory / "text.txt")))
    return directory / "config.py"


@pytest.fixture(scope="module")
def trained(config_file):
    """The work directory of a finished tiny run, one for each level of optimisation; tests read it and leave it as it is."""
    workdir = config_file.parent / f"trained_{os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS']}"
    if not workdir.exists():
        assert train(config_file, workdir) == 0
    return workdir


def train(config_file, workdir, *options):
    """`jaxdp train` in this process; returns the exit code."""
    return main(["train", f"--config={config_file}", f"--workdir={workdir}", *options])


def load(config_file, *overrides):
    """The tiny configuration with some keys changed: `load(file, "total_steps=3")`."""
    return parse_config(load_config(str(config_file), [f"--config.{override}" for override in overrides]))


def read_data(config, known=NONE):
    """The dataset of a configuration."""
    return load_dataset(dataset_spec(config), known)


def setup_of(config):
    """The training setup of a configuration."""
    return TrainingSetup(prepare_run(config))


def model_of(config, vocab_size, platform="cpu", vocabularies=NONE):
    """The model of a configuration."""
    return make_model(config, make_task(config, vocabularies), vocab_size, platform)


def environment(cache, **variables):
    """The environment of a process that a test starts."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **variables,
    }


def start(*arguments, env, **options):
    """Starts `jaxdp` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxdp", *map(str, arguments)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def start_with(faults, *arguments, env, **options):
    """Starts `jaxdp` with faults of `faults.py` as a process of its own."""
    script = Path(__file__).with_name("faults.py")
    return subprocess.Popen(
        [sys.executable, str(script), *faults, "--", *map(str, arguments)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def metrics_lines(workdir, name="train/loss"):
    """The lines of metrics.jsonl that have this name."""
    lines = map(json.loads, (Path(workdir) / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if name in line]


def saved_arrays(workdir, step):
    """Every array of a checkpoint's state, by path, as NumPy; of shards by their name in the files."""
    reader, state = ocp.PyTreeCheckpointer(), Path(workdir) / "checkpoints" / str(step) / "state"
    shards = {
        f"{path.name}: {name}": array
        for path in state.parent.glob("*.safetensors")
        for name, array in safetensors.numpy.load_file(path).items()
    }
    metadata = reader.metadata(state).item_metadata.tree
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    tree = reader.restore(state, args=ocp.args.PyTreeRestore(restore_args=on_host))
    whole = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    return whole | shards


def without_run_files(workdir):
    """Turns the checkpoints of a run into those of an earlier version, which recorded no files next to them."""
    for path in Path(workdir).glob("checkpoints/*/manifest.json"):
        body = json.loads(path.read_text())
        del body["run_files"], body["digest"]
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(body | {"digest": digest}, indent=1, allow_nan=False))


def contents(directory):
    """Every file below a directory, by relative path, but for the lock and what is in `logs/`."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in Path(directory).rglob("*")
        if path.is_file() and path.name != "run.lock" and path.parent.name != "logs"
    }


def raising(error):
    """A command that raises, in code of no file: what a file outside jaxdp raises counts as a user's."""
    variables = {"error": error}
    exec("def fail(options, rest):\n    raise error", variables)
    return variables["fail"]


def assert_refused(capsys, code=2):
    """One sentence on stderr, nothing on stdout, no traceback; returns the sentence."""
    out, err = capsys.readouterr()
    assert out == ""
    said = err.splitlines()
    starts = [index for index, line in enumerate(said) if line.startswith("jaxdp: ")]
    assert len(starts) == 1, err
    sentence = "\n".join(said[starts[0] :])
    assert "Traceback" not in err and sentence.rstrip().endswith((".", "?", "--help")), err
    assert code in (2, 3, 4, 70)
    return sentence.removeprefix("jaxdp: ")


def assert_same_bits(arrays, expected):
    """Equal names, shapes, dtypes and bits."""
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype and array.shape == expected[name].shape, name
        assert array.tobytes() == expected[name].tobytes(), name
