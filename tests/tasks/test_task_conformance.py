"""What every registered task must keep, whatever it learns."""

import functools
import itertools
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import other_rows_slow, others_slow
from tiny_sharding import in_true_shapes
from tiny_tasks import (
    CASES,
    LENGTH,
    NUM_RECORDS,
    TOKENIZER,
    VARIANTS,
    WIDER,
    apply_of,
    random_params,
)
from tiny_training import assert_equal_trees, topology

from jaxdp.config import parse_config
from jaxdp.data.pipeline import eval_batches, train_batches
from jaxdp.data.samplers.epochs import EpochSampler
from jaxdp.data.sequences.packed_pairs import PackedPairs, pack_pairs
from jaxdp.decoding.decode import make_decode
from jaxdp.decoding.sampling import Sampling
from jaxdp.errors import UserError
from jaxdp.evaluation import evaluate
from jaxdp.model import init_cache, init_params, parameter_shapes
from jaxdp.optim import UpdateConfig
from jaxdp.parallel.control_word import control_word_maker, control_word_spec
from jaxdp.parallel.devices import divide_batch
from jaxdp.parallel.layout import device_axes, is_replicated
from jaxdp.parallel.placement import (
    abstract_batch,
    place_batch,
)
from jaxdp.parallel.sharding import parameter_gather
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.parallel.state_placement import StatePlacement
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.zero import Zero
from jaxdp.state import initial_state
from jaxdp.step import make_eval_step, make_train_step
from jaxdp.tasks import CausalLM, declared_metrics, pad_examples, register_task, registered_tasks
from jaxdp.tasks import task as registry
from jaxdp.tasks.make import make_task
from jaxdp.tasks.model_functions import task_loss

SEED = 5
NUM_STEPS = 200
NUM_NEW = 7
ROW_IDS = np.arange(NUM_RECORDS, dtype=np.int32)
WITH_PADDING = NUM_RECORDS + 3


@pytest.fixture(scope="module", params=others_slow(sorted(VARIANTS), *CASES, "completion", "regression"))
def case(request):
    return VARIANTS[request.param]


@pytest.fixture(scope="module")
def loss(case):
    """loss(batch, task): sums of an evaluation of random parameters."""
    model = case.make_model()
    params, apply = random_params(model), apply_of(model)
    return jax.jit(lambda batch, task: task.loss(apply, params, batch, None, train=False), static_argnums=1)


def take(rows, indices):
    return {name: array[indices] for name, array in rows.items()}


def batch_of(case, task, num_rows=NUM_RECORDS, only=None):
    """All records as one batch, with rows of padding up to `num_rows` and where `only` is False."""
    rows = case.rows(task, num_rows)
    if only is not None:
        rows["num_tokens"] = rows["num_tokens"] * only
    return task.make_batch(rows, 0, 0, np.arange(num_rows, dtype=np.int32))


def assert_same_sums(actual, expected):
    assert actual.metrics.keys() == expected.metrics.keys()
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=2e-5, atol=1e-6), actual, expected)


def with_row_ids(spec):
    rows = next(iter(spec.values())).shape[0]
    return spec | {"row_ids": jax.ShapeDtypeStruct((rows,), jnp.int32)}


class Rows:
    """Rows in memory, as the pipeline reads them."""

    def __init__(self, arrays):
        self._arrays = arrays
        self.num_rows = len(arrays["num_tokens"])

    def rows(self, indices):
        return take(self._arrays, indices)


class Arrays:
    """Arrays of unequal length in memory."""

    def __init__(self, arrays):
        self.arrays = arrays

    def take(self, indices, most):
        taken = [self.arrays[index][:most] for index in indices]
        return np.concatenate(taken), np.array([len(each) for each in taken], np.int64)


# ---- On the host --------------------------------------------------------------------------------


def test_every_task_is_tried():
    not_trained = {"embedding"}
    assert {case.task for case in CASES.values()} == set(registered_tasks()) - not_trained


def test_batches_are_of_the_shapes_that_are_compiled_for(case):
    task = case.make_task()
    batch, spec = batch_of(case, task), task.batch_spec(NUM_RECORDS)
    assert batch.keys() == spec.keys()
    for name, leaf in spec.items():
        assert (batch[name].shape, batch[name].dtype) == (leaf.shape, leaf.dtype), name


def test_preparing_is_deterministic_and_travels_to_workers(case):
    task = case.make_task(tokenizer=None)
    copy = pickle.loads(pickle.dumps(task))
    for record in case.records[:4]:
        assert set(record) == set(task.fields)
        first, second = task.prepare(record, TOKENIZER), copy.prepare(record, TOKENIZER)
        assert first.keys() == second.keys() and set(task.eos_fields) <= first.keys()
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name])
            assert (array.ndim == 1) == (name in case.make_task().row_lengths)
    json.dumps(task.prepared_with)


def test_a_row_is_the_same_in_any_batch_and_any_process(case):
    task = case.make_task()
    order = EpochSampler(num_rows=NUM_RECORDS, global_batch_size=8, seed=3, shuffle=True)

    def batches_of(num_processes, process_index):
        batches = train_batches(
            Rows(case.rows(task)), task.make_batch, order, partition="random",
            num_processes=num_processes, process_index=process_index, start_step=6,
        )  # fmt: skip
        return [next(batches) for _ in range(3)]

    for whole, *shares in zip(batches_of(1, 0), *(batches_of(4, index) for index in range(4)), strict=True):
        joined = {name: np.concatenate([share[name] for share in shares]) for name in whole}
        for batch in (whole, joined):
            batch |= take(batch, np.argsort(batch["row_ids"]))
        assert_equal_trees(joined, whole)


def test_all_metrics_are_declared_and_dropout_gets_its_keys(case):
    task, model = case.make_task(), case.make_model()
    row_keys_seen = []

    def apply(params, tokens, *, row_keys=None, **options):
        row_keys_seen.append(row_keys)
        return apply_of(model)(params, tokens, row_keys=row_keys, **options)

    def measure(params, batch, row_keys):
        trained = task.loss(apply, params, batch, row_keys, train=True)
        assert trained.metrics == {} and row_keys_seen.pop() is row_keys
        measured = task.loss(apply, params, batch, None, train=False)
        assert row_keys_seen.pop() is None
        return measured

    row_keys = jax.vmap(jax.random.key)(jnp.arange(2, dtype=jnp.uint32))
    sums = jax.eval_shape(measure, parameter_shapes(model.config), task.batch_spec(2), row_keys)
    means = dict.fromkeys(["loss", *sums.metrics], 1.0)
    means |= task.derived_metrics(means)  # of which one may replace a mean, in another unit
    specs = [*task.metrics, *task.summary_metrics, *task.score_metrics]
    assert len(specs) == len({spec.name for spec in specs})
    assert set(means) == {"loss", *(spec.name for spec in task.metrics)}
    declared = declared_metrics(task, scored=True)
    assert set(declared) == {"eval/loss", *(spec.full_name for spec in specs)}
    assert all(isinstance(spec.higher_is_better, bool) and spec.description for spec in declared.values())


def test_facts_about_a_task_agree_with_its_arrays(case):
    """Other parts of jaxdp read the attributes, never the names of the arrays."""
    task = case.make_task()
    spec = task.batch_spec(2)
    if "targets" in spec:
        assert spec["targets"].shape[1] == (task.num_predicted or LENGTH)
    assert task.uses_labels == ("label" in task.fields)
    assert bool(task.generated_field) == bool(task.score_metrics)
    assert not task.generated_field or task.generated_field in task.row_lengths


# ---- Sums ---------------------------------------------------------------------------------------


def test_sums_add_up_over_rows_and_padding_adds_nothing(case, loss):
    task = case.make_task()
    whole = loss(batch_of(case, task, WITH_PADDING), task)
    part_of = np.arange(WITH_PADDING) % 3
    parts = [loss(batch_of(case, task, WITH_PADDING, part_of == part), task) for part in range(3)]
    assert_same_sums(jax.tree.map(lambda *values: sum(values), *parts), whole)
    for value in jax.tree.leaves(loss(batch_of(case, task, WITH_PADDING, part_of < 0), task)):
        assert value == 0
        assert (value.shape, value.dtype) == ((), jnp.float32)


def test_more_places_for_the_same_texts_change_nothing(case, loss):
    narrow, wide = case.make_task(), case.make_task(WIDER)
    expected = loss(batch_of(case, narrow, WITH_PADDING), narrow)
    assert_same_sums(loss(batch_of(case, wide, WITH_PADDING), wide), expected)
    # Nor does what stands there.
    rows = case.rows(wide, WITH_PADDING)
    random = np.random.default_rng(0)
    for name, places in wide.row_lengths.items():
        if name.endswith("tokens"):
            is_padding = np.arange(places) >= rows[f"num_{name}"][:, None]
            assert is_padding.any()
            noise = random.integers(4, TOKENIZER.vocab_size, is_padding.shape)
            rows[name] = np.where(is_padding, noise, rows[name]).astype(np.int32)
    noisy = wide.make_batch(rows, 0, 0, np.arange(WITH_PADDING, dtype=np.int32))
    assert_same_sums(loss(noisy, wide), expected)


def test_packed_pairs_are_learned_as_single_ones():
    """The same sums from a third of the rows."""
    case = CASES["seq2seq"]
    single, packed = case.make_task(), case.make_task(length=30, target_length=30, packing="documents")
    model = case.make_model(positions="sinusoidal")  # of which longer rows have as many as they need
    params, apply = random_params(model), apply_of(model)
    examples = [single.prepare(record, TOKENIZER) for record in case.records]
    end = np.int32(TOKENIZER.eos_id)
    sides = [Arrays([np.append(example[name], end) for example in examples]) for name in ("tokens", "target_tokens")]
    plan = pack_pairs(*([len(array) for array in side.arrays] for side in sides), (30, 30))
    assert plan.num_rows <= NUM_RECORDS // 2
    rows = PackedPairs(plan, *sides, end).rows(np.arange(plan.num_rows))
    sums = [
        jax.jit(lambda batch, task=task: task.loss(apply, params, batch, None, train=False))(batch)
        for task, batch in (
            (single, single.make_batch(case.rows(single), 0, 0, ROW_IDS)),
            (packed, packed.make_batch(rows, 0, 0, ROW_IDS[: plan.num_rows])),
        )
    ]
    assert_same_sums(*sums)


def test_what_is_read_matters(case, loss):
    task = case.make_task()
    rows = case.rows(task, WITH_PADDING)
    row_ids = np.arange(WITH_PADDING, dtype=np.int32)
    before = loss(task.make_batch(rows, 0, 0, row_ids), task)
    rows["tokens"] = rows["tokens"].copy()
    rows["tokens"][:, 0] = TOKENIZER.encode("z")[0]
    assert abs(loss(task.make_batch(rows, 0, 0, row_ids), task).loss - before.loss) > 1e-3


# ---- Steps --------------------------------------------------------------------------------------


def padded_batch(case, task):
    """Eight rows of padding, which are all that two of eight devices get, and 24 records."""
    rows = case.rows(task)
    rows = rows | {"num_tokens": rows["num_tokens"] * (ROW_IDS >= 8)}
    return task.make_batch(rows, SEED, 0, ROW_IDS) | {"row_ids": ROW_IDS}


ON_DEVICES = list(itertools.product(sorted(CASES), ("pmean", "zero3")))


@pytest.mark.parametrize(
    ("name", "sync"),
    other_rows_slow(ON_DEVICES, ("classification", "pmean")),  # tokens: test_step.py
)
def test_a_step_is_that_of_one_batch_however_it_is_divided(name, sync, small_shards):
    """Eight devices and two microbatches, some with nothing but padding, against one gradient. Zero3: also below."""
    assert_step_of_one_batch(CASES[name], sync)


MODELS = {
    "separate_embeddings": ("seq2seq", {"tie_embeddings": False, "scan_layers": True, "loss_chunk": 8}),
    "shared_embeddings": ("seq2seq", {"share_embeddings": True, "num_layers": 2}),
    "relative_positions": ("seq2seq", {"positions": "relative", "scan_layers": True, "remat": "full"}),
    "untied_masked_lm": ("masked_lm", {"tie_embeddings": False, "scan_layers": True, "loss_chunk": 2}),
    "token_types": ("whole_words", {"num_layers": 2, "remat": "dots"}),
    "scanned_classifier": ("multi_label", {"scan_layers": True, "num_layers": 2}),
    "completion": ("completion", {"scan_layers": True, "num_layers": 2, "num_kv_heads": 1, "loss_chunk": 5}),
}


@pytest.mark.parametrize("name", others_slow(MODELS, "shared_embeddings"))
def test_sharded_models_have_the_gradient_of_whole_ones(name, small_shards):
    variant, overrides = MODELS[name]
    assert_step_of_one_batch(VARIANTS[variant], "zero3", **overrides)


def assert_step_of_one_batch(case, sync, **overrides):
    """Compares a step with the gradient of the whole batch, and of its logits at once, on one device."""
    # Without dropout, whose random numbers take most of the time to compile.
    task, model = case.make_task(), case.make_model(dropout_rate=0.0, **overrides)
    whole = case.make_model(dropout_rate=0.0, **overrides | {"loss_chunk": 0})
    params, apply = random_params(model), apply_of(whole)
    batch = padded_batch(case, task)

    def loss(params, rows, row_keys):
        return task.loss(apply, params, rows, row_keys, train=True)

    def mean(params):
        step_key = jax.random.fold_in(jax.random.key(SEED), 0)
        sums = loss(params, batch, jax.vmap(jax.random.fold_in, (None, 0))(step_key, ROW_IDS))
        return sums.loss / sums.weight

    expected, gradients = jax.jit(jax.value_and_grad(mean))(params)

    here, shape = topology(8), divide_batch(NUM_RECORDS, 2, 8)
    update = UpdateConfig(optax.sgd(1.0), optax.constant_schedule(1.0))
    strategy = Pmean(8) if sync == "pmean" else Zero(8, parameter_shapes(model.config), shard_params=True)
    placement, gathering = placed_model(model, strategy, here, update.optimizer)
    program = compile_spmd(
        make_train_step(task_loss(task, gathering, train=True), update, strategy, shape, SEED),
        here,
        placement.abstract,
        abstract_batch(with_row_ids(task.batch_spec(shape.device_batch_size)), here),
        abstract_batch(control_word_spec(), here),
        out_axes=(device_axes(placement.abstract), None),
    )
    state = placement.around(params)
    state, metrics = program(state, place_batch(batch, here), control_word_maker(here)(0, 0))
    state = in_true_shapes(placement, state)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    stepped = jax.tree.map(lambda before, after: before - after, params, jax.device_get(state.params))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    assert scale > 1e-3 and int(metrics["skipped"]) == 0
    assert_equal_trees(stepped, gradients, rtol=1e-3, atol=1e-5 * max(scale, 1.0))


def placed_model(model, strategy, here, optimizer):
    """The placement of a state, and the model that gathers what is sharded."""
    shapes = parameter_shapes(model.config)
    placement = StatePlacement(
        strategy, here, shapes, lambda params: initial_state(params, optimizer, with_ema=False, sync=())
    )
    assert is_replicated(placement.layout) == isinstance(strategy, Pmean)
    return placement, model.clone(gather=parameter_gather(placement.layout.params, model.config.dtype))


@pytest.mark.parametrize(
    ("name", "sync"),
    other_rows_slow(ON_DEVICES, ("classification", "zero3"), ("seq2seq", "zero3")),
)
def test_an_evaluation_is_exact_on_any_devices(name, sync, small_shards):
    """A split of 45 rows in batches of 16 on 8 devices against float64 sums row by row."""
    case = CASES[name]
    task, model = case.make_task(), case.make_model()
    params, apply = random_params(model), apply_of(model)
    rows = case.rows(task, 45, (case.records * 2)[:45])
    here = topology(8)

    def loss(params, batch, row_keys=None):
        return task.loss(apply, params, batch, row_keys, train=False)

    strategy = Pmean(8) if sync == "pmean" else Zero(8, parameter_shapes(model.config), shard_params=True)
    placement, gathering = placed_model(model, strategy, here, optax.sgd(1.0))
    program = compile_spmd(
        make_eval_step(task_loss(task, gathering, train=False)),
        here,
        placement.abstract_eval_params,
        abstract_batch(with_row_ids(task.batch_spec(2)), here),
        abstract_batch(control_word_spec(), here),
    )
    make_control_word = control_word_maker(here)
    batches = eval_batches(
        Rows(rows), task.make_batch, global_batch_size=16, num_processes=1, process_index=0, num_batches=0
    )
    measured = evaluate(
        program, strategy.eval_params(placement.around(params)), batches,
        lambda batch: place_batch(batch, here), lambda: make_control_word(0, 0), task.derived_metrics,
    )  # fmt: skip

    one = jax.jit(loss)
    totals = {}
    for row in range(45):
        sums = one(params, task.make_batch(take(rows, [row]), 0, 0, np.array([row], np.int32)))
        for name, pair in {"loss": (sums.loss, sums.weight), **sums.metrics}.items():
            totals.setdefault(name, np.zeros(2)).__iadd__(np.asarray(pair, np.float64))
    means = {name: total / weight for name, (total, weight) in totals.items()}
    means |= task.derived_metrics(means)
    assert measured == pytest.approx({f"eval/{name}": value for name, value in means.items()}, rel=1e-5)


def test_a_summary_does_not_depend_on_batches(case):
    task, model = case.make_task(), case.make_model()
    if not task.eval_outputs:
        return
    params, apply = random_params(model), apply_of(model)
    outputs = jax.jit(lambda batch: task.outputs(apply, params, batch))
    batches = [batch_of(case, task, WITH_PADDING), *(
        batch_of(case, task, WITH_PADDING, np.arange(WITH_PADDING) % 2 == part) for part in range(2)
    )]  # fmt: skip
    whole, *parts = (jax.device_get(outputs(batch)) for batch in batches)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in task.eval_outputs}
    first, second = task.summarize(whole), task.summarize(joined)
    assert list(first.metrics) == [spec.name for spec in task.summary_metrics]
    assert second.metrics == pytest.approx(first.metrics, rel=1e-4, nan_ok=True)
    assert json.loads(json.dumps(first.report, allow_nan=False)) == first.report


def test_requests_are_answered(case):
    task, model = case.make_task(), case.make_model()
    if not task.predict_fields or task.generated_field:  # what is written by decoding is no output
        return
    record = {"text": "a[MASK]c"} if case.task == "masked_lm" else case.records[0]
    requests = [task.prepare_for_predict({name: record[name] for name in task.predict_fields}, TOKENIZER)] * 3
    rows, _ = pad_examples(task, requests, dict.fromkeys(task.eos_fields, TOKENIZER.eos_id), 4)
    batch = task.make_predict_batch(rows)
    spec = {name: (leaf.shape, leaf.dtype) for name, leaf in task.batch_spec(4).items()}
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == spec
    answers = task.predictions(jax.device_get(task.outputs(apply_of(model), random_params(model), batch)))
    assert len(answers) == 4 and answers[0] == answers[1]
    json.dumps(answers, allow_nan=False)


@pytest.mark.parametrize("name", others_slow(["seq2seq", "completion"], "seq2seq"))
def test_what_is_decoded_is_what_the_task_expects(name):
    """Greedy continuations, taken as targets, are predicted without an error."""
    case, batch = VARIANTS[name], {"seq2seq": source_batch, "completion": prompt_batch}[name]
    task, model = case.make_task(), case.make_model()
    params, apply = random_params(model, deviation=1.0), apply_of(model)
    decode = make_decode(
        apply,
        functools.partial(init_cache, model.config),
        Sampling(temperature=0),
        num_new=NUM_NEW,
        eos_id=TOKENIZER.eos_id,
    )
    requests, rows_with = batch(case, task)
    seeds = {"seeds": np.arange(NUM_RECORDS, dtype=np.uint32), "offset": np.zeros(NUM_RECORDS, np.int32)}
    written = np.asarray(jax.jit(decode)(params, requests | seeds)["tokens"][:, 0])
    assert len({row.tobytes() for row in written}) > NUM_RECORDS // 2
    is_end = written == TOKENIZER.eos_id
    num_written = np.where(is_end.any(1), is_end.argmax(1) + 1, NUM_NEW).astype(np.int32)
    expected = task.make_batch(rows_with(written, num_written), 0, 0, ROW_IDS)
    sums = jax.jit(lambda batch: task.loss(apply, params, batch, None, False))(expected)
    assert sums.weight == num_written.sum() and sums.metrics["accuracy"][0] == sums.weight


def source_batch(case, task):
    """Sources to decode from; and the rows whose targets are what was written."""
    rows = case.rows(task)

    def rows_with(written, num_written):
        target_tokens = np.zeros((NUM_RECORDS, task.row_lengths["target_tokens"]), np.int32)
        target_tokens[:, :NUM_NEW] = written
        return rows | {"target_tokens": target_tokens, "num_target_tokens": num_written}

    return task.make_predict_batch(rows), rows_with


def prompt_batch(case, task):
    """Sources, all of one length, as prompts; and the rows that end in what was written."""
    prompts = np.stack([TOKENIZER.encode(record["source"] + " ") for record in case.records])
    length = prompts.shape[1]

    def rows_with(written, num_written):
        rows = {name: np.zeros((NUM_RECORDS, places), np.int32) for name, places in task.row_lengths.items()}
        rows["tokens"][:, : length + NUM_NEW] = np.concatenate([prompts, written], axis=1)
        rows["loss_mask"][:, length:] = 1
        return rows | {"num_tokens": length + num_written}

    return {"tokens": prompts, "prompt_mask": np.ones(prompts.shape, bool)}, rows_with


# ---- Learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", others_slow(VARIANTS, "seq2seq"))
def test_thirty_two_examples_are_learned_by_heart(name):
    case = VARIANTS[name]
    task = case.make_task(label_smoothing=0.0, z_loss=0.0)
    model = case.make_model(embed_dim=48, mlp_dim=96, num_heads=4, dropout_rate=0.0)
    apply, batch = apply_of(model), batch_of(case, task)
    optimizer = optax.adam(optax.linear_schedule(8e-3, 1e-3, NUM_STEPS))
    params = jax.jit(init_params, static_argnums=0)(model.config, jax.random.key(0))

    def mean(params):
        sums = task.loss(apply, params, batch, None, train=True)
        return sums.loss / sums.weight

    def step(carry, _):
        params, state = carry
        loss, gradients = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), state), loss

    start = (params, optimizer.init(params))
    _, losses = jax.jit(lambda start: jax.lax.scan(step, start, length=NUM_STEPS))(start)
    assert losses[0] > 0.5 and losses[-1] < 0.05, (losses[0], losses[-1])


# ---- The registry -------------------------------------------------------------------------------


def test_the_name_of_a_task_chooses_it(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", {})
    register_task("mine", CausalLM)
    assert set(registered_tasks()) == {"mine"}
    config = parse_config(
        {"task": "mine", "total_steps": 1, "data": {"length": 33, "packing": "cut"}, "optim": {"z_loss": 0.25}}
    )
    task = make_task(config)
    assert (type(task), task._length, task._z_loss) == (CausalLM, 33, 0.25)
    with pytest.raises(UserError, match=r"task='yours' is unknown; choose one of: mine"):
        make_task(config.replaced(task="yours"))
