"""Parts of a run made from its configuration: durations, paths, model, update and state."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import load, model_of

from jaxdp.checkpoint.run_files import with_preset
from jaxdp.config import to_json
from jaxdp.config_diff import check_resumable
from jaxdp.errors import UserError
from jaxdp.model import init_params
from jaxdp.parallel.strategies import make_strategy
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.tasks import LossSums
from jaxdp.tasks.make import make_task
from jaxdp.tasks.model_functions import task_loss
from jaxdp.tasks.resolved_config import resolve
from jaxdp.training.update import make_initial_state, make_update


def resolved_of(config):
    return resolve(config, make_task(config), 257)


@pytest.mark.parametrize(
    ("duration", "num_rows", "steps"),
    [
        ("total_steps=7", 1000, 7),
        ("total_epochs=1", 160, 10),
        ("total_epochs=1", 161, 11),
        ("total_epochs=0.5", 160, 5),
        ("total_epochs=0.001", 160, 1),
        ("total_tokens=256", 1000, 1),
        ("total_tokens=257", 1000, 2),
        ("total_tokens=2560", 1000, 10),
    ],
)
def test_durations_in_steps(config_file, duration, num_rows, steps):
    """16 rows of 16 tokens in a batch."""
    assert load(config_file, duration).num_steps(num_rows) == steps


def test_resolve_writes_the_preset_out(config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load(config_file, "model.preset=llama_nano", "model.mlp_dim=48", "init_from=~/other")
    resolved = resolved_of(config)
    assert (resolved.model.mlp_dim, resolved.model.norm, resolved.model.num_kv_heads) == (48, "rmsnorm", 2)
    assert resolved.model.preset == "llama_nano" and resolved.model.vocab_size == 257
    assert resolved.init_from == str(tmp_path / "other")
    assert config.model.norm is None  # the caller's is as it was
    assert resolved_of(resolved) == resolved


NEWER_KEYS = (
    "attention_dropout_rate", "attention_window", "attention_logit_softcap", "qk_norm", "zero_init_residual",
    "residual_scalars", "logit_softcap", "value_embeddings",
)  # fmt: skip
"""Keys of `model` that runs of earlier versions do not have."""


def test_a_run_that_does_not_know_newer_keys_goes_on_and_keeps_its_rate(config_file, tmp_path):
    resolved = resolved_of(load(config_file, "model.dropout_rate=0.2"))
    assert (resolved.model.attention_dropout_rate, resolved.model.attention_window) == (0.2, 0)
    saved = to_json(resolved)
    for key in NEWER_KEYS:
        del saved["model"][key]
    check_resumable(with_preset(saved), to_json(resolved), tmp_path)
    other = resolved_of(load(config_file, "model.dropout_rate=0.2", "model.attention_dropout_rate=0.0"))
    with pytest.raises(UserError, match=r"model\.attention_dropout_rate: 0\.2 in the run, 0\.0 now"):
        check_resumable(with_preset(saved), to_json(other), tmp_path)


def test_a_kernel_of_another_platform_is_refused_before_anything_is_built(config_file):
    config = load(config_file, "model.attention=splash")
    with pytest.raises(UserError, match=r"model\.attention = splash needs the platform tpu"):
        model_of(config, 257, "cpu")
    assert model_of(config.replaced(model={"dropout_rate": 0.0}), 257, "tpu").config.attention == "splash"


def test_paths_become_absolute(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load(
        config_file, "data.path=corpus/a.txt", "data.eval_path=b.*", "data.target_path=c", "data.eval_target_path=~/d",
        "data.mixture=({'source':'text','path':'a'},{'source':'stdlib','weight':1.0})",
    )  # fmt: skip
    data = resolved_of(config).data
    assert data.path == str(tmp_path / "corpus" / "a.txt")
    assert data.eval_path == str(tmp_path / "b.*")
    assert (data.target_path, data.eval_target_path) == (str(tmp_path / "c"), str(tmp_path / "d"))
    assert data.mixture == ({"source": "text", "path": str(tmp_path / "a")}, {"source": "stdlib", "weight": 1.0})
    assert resolved_of(load(config_file)).data.eval_path is None


def test_what_is_no_path_of_this_machine_stays(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    for source, path, expected in (
        ("text", "https://host/a.txt", "https://host/a.txt"),
        ("hf", "owner/name", "owner/name"),
        ("hf_stream", "owner/name", "owner/name"),
        ("hf", "saved", str(tmp_path / "saved")),
        ("hf_stream", "*.jsonl", str(tmp_path / "*.jsonl")),
    ):
        config = load(config_file, f"data.source={source}", f"data.path={path}")
        assert resolved_of(config).data.path == expected


@pytest.mark.parametrize(
    ("platform", "override", "dtype"),
    [("cpu", "auto", "float32"), ("gpu", "auto", "bfloat16"), ("tpu", "auto", "bfloat16"), ("cpu", "bfloat16", "bfloat16"),
     ("gpu", "float32", "float32")],
)  # fmt: skip
def test_auto_dtype_goes_by_the_platform(config_file, platform, override, dtype):
    config = load(config_file, f"model.dtype={override}")
    assert model_of(config, 257, platform).config.dtype == dtype


@pytest.mark.parametrize(
    ("platform", "bucket_mb", "bucket_bytes"),
    [("cpu", None, None), ("gpu", None, 32 * 2**20), ("cpu", 0.5, 2**19), ("tpu", 4.0, 4 * 2**20)],
)
def test_gradients_travel_in_one_buffer_on_cpu(config_file, platform, bucket_mb, bucket_bytes):
    config = load(config_file, *([] if bucket_mb is None else [f"parallel.bucket_mb={bucket_mb}"]))
    here = SimpleNamespace(platform=platform, num_devices=8)
    buckets = make_strategy(config.parallel, here, None).buckets
    assert (buckets.bucket_bytes, buckets.wire_dtype) == (bucket_bytes, "float32")


def test_state_is_drawn_from_the_seed(config_file):
    def initialise(*overrides):
        config = load(config_file, *overrides)
        model, strategy = model_of(config, 257), Pmean(1)
        initialise = make_initial_state(make_update(config.optim, 6, "cpu", strategy), strategy)
        return lambda: initialise(init_params(model.config, jax.random.key(config.seed)))

    state, other = jax.jit(initialise())(), jax.jit(initialise("seed=1"))()
    for leaf, average in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(leaf, average)
    kernels = [found.params["layer_0"]["mlp"]["up"]["kernel"] for found in (state, other)]
    assert not jnp.array_equal(*kernels)
    assert int(state.step) == int(state.skipped) == int(state.skipped_in_a_row) == 0
    assert jax.eval_shape(initialise("optim.ema_decay=0")).ema is None


@pytest.mark.parametrize(
    ("dropout_rate", "train", "draws"), [(0.1, True, True), (0.1, False, False), (0.0, True, False)]
)
def test_dropout_only_in_training(config_file, dropout_rate, train, draws):
    """A task is given row keys exactly where something is to be dropped."""
    config = load(config_file, f"model.dropout_rate={dropout_rate}")

    seen = []

    class Task:
        def loss(self, apply, params, rows, row_keys, is_train):
            assert is_train is train
            seen.append(row_keys)
            return LossSums(jnp.zeros(()), jnp.ones(()), {})

    task_loss(Task(), model_of(config, 257, "cpu"), train=train)(None, None, "keys")
    assert seen == ["keys" if draws else None]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["model.embed_dim=1000000", "model.num_heads=1"], "take at least .* TiB, and this host has .* GiB"),
        (["model.vocab_size=100000000000000"], "take at least .* PiB|take at least .* TiB, and this host"),
        (["model.num_layers=1000000000"], r"model\.num_layers=1000000000 must be at most 10,000"),
    ],
)
def test_a_giant_model_is_refused_before_anything_of_it_is_built(config_file, monkeypatch, changes, sentence):
    monkeypatch.setattr("jax.eval_shape", lambda *_: pytest.fail("something was built"))
    config = load(config_file, *changes)
    with pytest.raises(UserError, match=sentence):
        model_of(config, config.model.vocab_size or 257, "cpu")
