"""A loaded model: the results of the functions, programs compiled once, any order of calls, threads and other JAX work."""

import asyncio
import dataclasses
import signal
import threading

import jax
import numpy as np
import pytest
from tiny_runs import train
from tiny_tasks_data import CONFIG, write_records

import jaxdp
from jaxdp.errors import UserError
from jaxdp.model import num_parameters
from jaxdp.trees import num_elements

GREEDY = jaxdp.Sampling(temperature=0)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """run_of(task): the work directory of a finished run, made once."""
    root = tmp_path_factory.mktemp("loaded")
    write_records(root / "records.jsonl")
    (root / "config.py").write_text(CONFIG.format(path=str(root / "records.jsonl")))

    def run(task):
        workdir = root / task
        if not workdir.exists():
            options = (f"--config.task={task}", "--config.total_steps=2", "--config.eval.every_steps=0")
            assert train(root / "config.py", workdir, *options) == 0
        return workdir

    return run


@pytest.fixture(scope="module")
def model(trained):
    return jaxdp.load(trained)


COMPILED: list[float] = []
"""Seconds of each program that JAX has compiled, or read from its cache of compiled programs, since this file was imported."""

jax.monitoring.register_event_duration_secs_listener(
    lambda event, secs, **_: COMPILED.append(secs) if event == "/jax/core/compile/backend_compile_duration" else None
)


@pytest.fixture
def compilations():
    """Every compilation since the list was last emptied."""
    del COMPILED[:]
    return COMPILED


def test_what_it_holds(model, trained):
    saved = jaxdp.load_checkpoint(trained)
    assert isinstance(model, jaxdp.LoadedModel) and "causal_lm" in repr(model)
    assert model.config == saved.config and model.task.fields == ("text",)
    assert model.tokenizer.decode(model.tokenizer.encode("the of")) == "the of"
    jax.tree.map(np.testing.assert_array_equal, model.params, saved.params)
    assert model.num_parameters == num_parameters(model.model.config) == num_elements(saved.params)


def test_a_checkpoint_is_a_path_and_a_step(trained):
    first = jaxdp.load(trained, step=3, weights="raw")
    assert first.run.checkpoint.name == "3"
    saved = jaxdp.load_checkpoint(trained, step=3, weights="raw")
    jax.tree.map(np.testing.assert_array_equal, first.params, saved.params)
    assert jaxdp.load(trained / "checkpoints" / "3").evaluate()["step"] == 3
    with pytest.raises(UserError, match="is a checkpoint, so step=6 means nothing"):
        jaxdp.load(trained / "checkpoints" / "3", step=6)
    with pytest.raises(UserError, match=r"nowhere"):
        jaxdp.load(trained / "nowhere")


@pytest.mark.parametrize("strategy", [jaxdp.Sampling(), GREEDY, jaxdp.BeamSearch(2, num_returned=2)])
def test_it_generates_as_the_function_does(model, trained, strategy):
    arguments = {
        "max_new_tokens": 4,
        "strategy": strategy,
        "seed": 5,
        "num_samples": 1 if isinstance(strategy, jaxdp.BeamSearch) else 2,
    }
    prompts = ["the of", "and"]
    assert model.generate(prompts, **arguments) == jaxdp.generate(trained, prompts, **arguments)


def test_a_string_is_one_prompt(model):
    [sample] = model.generate("the of", max_new_tokens=2)
    assert [sample] == model.generate(["the of"], max_new_tokens=2)
    assert {"prompt", "text", "tokens", "seed"} <= dataclasses.asdict(sample).keys()
    assert model.generate([]) == []


def test_it_evaluates_as_the_command_does(model, trained):
    assert model.evaluate() == jaxdp.evaluate(trained)
    assert model.evaluate(split="train", num_batches=1) == jaxdp.evaluate(trained, split="train", num_batches=1)


def test_other_data_are_evaluated_anew_when_the_file_has_changed(model, tmp_path):
    path = tmp_path / "other.txt"
    path.write_text("the of and that " * 100)
    first = model.evaluate({"eval_path": str(path)})
    assert first["data"] == str(path) and first == model.evaluate({"eval_path": str(path)})
    path.write_text("her from which have " * 100)
    assert model.evaluate({"eval_path": str(path)})["eval/loss"] != first["eval/loss"]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("classification", {}),
        pytest.param("masked_lm", {"num_candidates": 2}, marks=pytest.mark.slow),
        pytest.param("seq2seq", {"strategy": jaxdp.BeamSearch(2, num_returned=2)}, marks=pytest.mark.slow),
        ("seq2seq", {"strategy": jaxdp.Sampling(), "num_samples": 2, "seed": 3}),
    ],
)
def test_it_predicts_as_the_function_does(run_of, task, options, compilations):
    workdir, text = run_of(task), "ant [MASK]" if task == "masked_lm" else "ant bee"
    records = [{"text": text, "source": text, "id": number} for number in range(3)]
    model = jaxdp.load(workdir)
    found = model.predict(records, **options)
    del compilations[:]
    assert model.predict(records, **options) == found
    assert compilations == []
    assert found == jaxdp.predict(workdir, records, **options)


def test_a_second_call_of_the_same_shape_compiles_nothing(trained, compilations):
    model = jaxdp.load(trained)
    calls = {
        "generate": lambda: model.generate(["the of", "and"], max_new_tokens=40, num_samples=2),  # outgrows the context
        "search": lambda: model.generate("the of", max_new_tokens=3, strategy=jaxdp.BeamSearch(2)),
        "apply": lambda: model.apply([[1, 2, 3]]),
        "evaluate": model.evaluate,
    }
    for call in calls.values():
        del compilations[:]
        call()
        assert compilations
    for name, call in calls.items():
        del compilations[:]
        call()
        assert compilations == [], name


def test_logits_are_those_of_the_module(model):
    tokens = np.random.default_rng(0).integers(0, model.model.config.vocab_size, (3, 7))
    segments = np.repeat([[0, 0, 0, 1, 1, 1, 1]], 3, axis=0)
    inputs = {"segment_ids": segments, "positions": np.arange(7)[None]}
    expected = model.model.apply({"params": model.params}, tokens.astype(np.int32), **inputs)
    logits = model.apply(tokens, **inputs)
    assert isinstance(logits, jax.Array) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.apply(tokens[:1]), model.apply(tokens)[:1], rtol=1e-4, atol=1e-5)


def test_logits_of_an_encoder_decoder(run_of):
    model = jaxdp.load(run_of("seq2seq"))
    inputs = {"target_tokens": [[1, 2, 3]], "predict_at": [[0, 2]]}
    expected = model.model.apply(
        {"params": model.params}, np.int32([[1, 2]]), **{name: np.int32(value) for name, value in inputs.items()}
    )
    np.testing.assert_allclose(model.apply([[1, 2]], **inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "inputs", "message"),
    [
        ([1, 2], {}, r"tokens must be an array \[rows, length\] of whole numbers, found int64\[2\]"),
        ([[1.0]], {}, r"found float64\[1, 1\]"),
        ([[1, 2], [1]], {}, "tokens must be an array"),
        ([], {}, "tokens must be an array"),
        ([[10**6]], {}, "tokens must be from 0 to [0-9]*, the vocabulary of the model, found 1000000 to 1000000"),
        ([[1]], {"segment_id": [[1]]}, "the model has no input 'segment_id'; did you mean 'segment_ids'?"),
        ([[1]], {"row_keys": [[1]]}, "the model has no input 'row_keys'"),
        ([[1]], {"segment_ids": [[1], [1]]}, "segment_ids must have 1 rows, as tokens has, found 2"),
        ([[1]], {"attention_mask": [[1]]}, "attention_mask must be an array .* of booleans"),
        ([[1] * 17], {}, "17"),
    ],
)
def test_wrong_inputs_are_one_sentence(model, tokens, inputs, message):
    with pytest.raises(UserError, match=message):
        model.apply(tokens, **inputs)


def test_calls_from_threads_and_event_loops_leave_nothing_behind(trained):
    """As in a Jupyter kernel: an event loop is running, and other code has used JAX."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    expected = jaxdp.load(trained).generate("the of", max_new_tokens=3)

    async def cell():
        return jaxdp.load(trained).generate("the of", max_new_tokens=3)

    assert asyncio.run(cell()) == expected
    model, found = jaxdp.load(trained), []
    threads = [
        threading.Thread(
            target=lambda: found.append((model.generate("the of", max_new_tokens=3), model.evaluate()["step"]))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(expected, 6)] * 3
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


@pytest.mark.parametrize("setting", ["x64", "guard"])
def test_settings_of_jax_that_change_after_the_load(model, setting):
    if setting == "x64":
        with jax.enable_x64(True):
            assert model.apply([[1, 2, 3]]).dtype == np.float32
            assert model.generate("the", max_new_tokens=5) == model.generate("the", max_new_tokens=5)
        return
    with jax.transfer_guard("disallow"), pytest.raises(UserError, match="JAX_TRANSFER_GUARD"):
        model.generate("the of")


def test_a_task_that_does_not_fit(model, run_of):
    with pytest.raises(UserError, match="which answers no records: `jaxdp generate` continues texts with it"):
        model.predict("the of")
    with pytest.raises(UserError, match="which continues no prompts"):
        jaxdp.load(run_of("classification")).generate("the of")


@pytest.mark.slow  # test_generate_decoder.py, test_task_conformance.py: any number of devices
def test_results_do_not_depend_on_the_devices(trained, monkeypatch):
    """Three of the eight devices, over which neither the prompts nor the tokens divide."""
    all_devices = jaxdp.load(trained)
    everything = all_devices.topology
    monkeypatch.setattr(
        "jaxdp.inference.restored_model.init_devices",
        lambda: dataclasses.replace(everything, devices=everything.devices[:3]),
    )
    model = jaxdp.load(trained)
    assert model.topology.num_devices == 2  # the largest number up to 3 that divides 16
    prompts = ["the of", "and", "that his with"]
    assert model.generate(prompts, max_new_tokens=4) == all_devices.generate(prompts, max_new_tokens=4)
    np.testing.assert_allclose(model.apply([[1, 2, 3]]), all_devices.apply([[1, 2, 3]]), rtol=1e-4, atol=1e-5)
    found, expected = model.evaluate(), all_devices.evaluate()
    assert found.pop("split") == expected.pop("split") and found == pytest.approx(expected, rel=1e-5)
