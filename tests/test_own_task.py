"""Faults of a user's own task: each is refused in one sentence with exit code 2, before a step is trained."""

from pathlib import Path

import jax
import numpy as np
import pytest
from tiers import others_slow
from tiny_runs import assert_refused, compilation_cache, config_file, load, metrics_lines, train

import jaxdp
from jaxdp.errors import UserError
from jaxdp.tasks import LossSums, MetricSpec, Summary, Task, cross_entropy_sums
from jaxdp.tasks import task as registry
from jaxdp.tasks.make import dataset_spec, make_task, make_training_batch

__all__ = ["compilation_cache", "config_file"]


class Own(Task):
    """The example of docs/extending.md."""

    fields, eos_fields = ("text",), ("tokens",)
    packings, architectures = ("cut", "none"), ("decoder",)
    model_options = {"head": "language_model"}  # noqa: RUF012

    def __init__(self, inputs):
        self.length = inputs.length
        self.row_lengths = {"tokens": inputs.length + (inputs.packing == "none")}

    def prepare(self, record, tokenizer):
        return {"tokens": tokenizer.encode(record["text"])}

    def make_batch(self, examples, seed, step, row_ids):
        tokens, num_tokens = examples["tokens"], examples["num_tokens"][:, None]
        weights = (np.arange(1, self.length + 1) < num_tokens).astype(np.float32)
        return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}

    def batch_spec(self, rows):
        types = {"tokens": np.int32, "targets": np.int32, "weights": np.float32}
        return {name: jax.ShapeDtypeStruct((rows, self.length), dtype) for name, dtype in types.items()}

    def loss(self, apply, params, batch, row_keys, train):
        logits = apply(params, batch["tokens"], row_keys=row_keys)
        objective, _ = cross_entropy_sums(logits, batch["targets"], batch["weights"])
        return LossSums(objective, batch["weights"].sum(), {})


@pytest.fixture(autouse=True)
def factories(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))


def own(base=Own, **changes):
    """The task with some attributes and methods changed; None deletes one."""
    kind = type("Mine", (base,), {name: value for name, value in changes.items() if value is not None})
    kind.__module__ = __name__
    return kind


def without(name):
    """The task without an attribute or method of its own."""
    kept = {key: value for key, value in vars(Own).items() if key not in (name, "__dict__", "__weakref__")}
    return type("Mine", (Task,), kept)


def with_lengths(**lengths):
    def init(self, inputs):
        self.length, self.row_lengths = inputs.length, lengths

    return own(__init__=init)


def fewer(self, examples, step):
    return examples


def no_keys(self, apply, params, batch, train):
    return None


METRIC = MetricSpec("wer", higher_is_better=False)

DECLARED = {
    "field": (own(fields=("txt",)), "fields has 'txt'; expected some of text,", "did you mean 'text'?"),
    "field string": (own(fields="text"), "fields must be a tuple of strings, found 'text' (str): with one string write ('text',)"),
    "no field": (own(fields=()), "fields is empty; expected some of text,"),
    "no fields": (without("fields"), "does not declare fields: expected some of text,"),
    "packing": (own(packings=("cuts",)), "packings has 'cuts'; expected some of cut, documents, none; did you mean 'cut'?"),
    "no packings": (without("packings"), "does not declare packings: expected some of cut, documents, none"),
    "architecture": (own(architectures=("decodr",)), "architectures has 'decodr'; expected some of decoder, encoder, encoder_decoder; did you mean 'decoder'?"),
    "no architecture": (without("architectures"), "does not declare architectures: expected some of decoder,"),
    "head": (own(model_options={"head": "language_modl"}), "model_options['head'] must be one of language_model,", "did you mean 'language_model'?"),
    "option": (own(model_options={"heads": "language_model"}), "model_options has 'heads'; its keys are head, num_labels,", "did you mean 'head'?"),
    "no labels": (own(model_options={"head": "classification"}), "model_options has no 'num_labels' with the head classification"),
    "labels": (own(model_options={"num_labels": 2}), "model_options has a 'num_labels' with the head language_model"),
    "no number": (own(model_options={"head": "classification", "num_labels": "2"}), "model_options['num_labels'] must be a number of at least 1, found '2' (str)"),
    "no options": (own(model_options=3), "model_options must be a dict, such as"),
    "no row_lengths": (own(__init__=lambda self, inputs: None), 'does not declare row_lengths: it must be a dict of lengths in tokens'),
    "row_length": (own(__init__=lambda self, inputs: setattr(self, "row_length", {"tokens": 3})), "does not declare row_lengths, but has row_length: it must be"),
    "no tokens": (with_lengths(token=16), "row_lengths must have the length of 'tokens', it has 'token'; did you mean 'token'?"),
    "empty lengths": (with_lengths(), "row_lengths must have the length of 'tokens', it is empty"),
    "length": (with_lengths(tokens="16"), "row_lengths['tokens'] must be a number of tokens, found '16' (str)"),
    "eos field": (own(eos_fields=("token",)), "eos_fields has 'token', which row_lengths has no length for; it has 'tokens'; did you mean 'tokens'?"),
    "comma": (own(metrics=METRIC), "metrics must be a tuple of jaxdp.tasks.MetricSpec, found one MetricSpec: write a comma after it, metrics = (MetricSpec('wer', ...),)"),
    "metric": (own(metrics=("wer",)), "declares the metric 'wer'; expected a jaxdp.tasks.MetricSpec of the group 'eval'"),
    "no prepare": (without("prepare"), "does not define prepare: add def prepare(self, record, tokenizer)."),
    "make_batches": (own(without("make_batch"), make_batches=Own.make_batch), "does not define make_batch, but has make_batches: add def make_batch(self, examples, seed, step, row_ids)."),
    "no loss": (without("loss"), "does not define loss: add def loss(self, apply, params, batch, row_keys, train)."),
    "summarise": (own(eval_outputs=("a",), outputs=lambda self, apply, params, batch: {}, summarise=lambda self, outputs: None), "does not define summarize, which eval_outputs needs, but has summarise: add def summarize(self, outputs)."),
    "predictions": (own(predict_fields=("text",)), "does not define prepare_for_predict, which predict_fields needs: add def"),
    "arguments": (own(make_batch=fewer), "examples, seed, step, row_ids), but accepts", "examples, step): define", f"in {__file__}, line"),
    "loss arguments": (own(loss=no_keys), "apply, params, batch, row_keys, train), but accepts", "apply, params, batch, train): define"),
    "no task": (type("Mine", (), {"__init__": lambda self, inputs: None}), "must make a jaxdp.Task, found Mine, which does not inherit from it: write class Mine(jaxdp.Task)."),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLARED)
def test_a_wrong_declaration_is_refused_where_the_task_is_made(case, config_file):
    kind, *fragments = DECLARED[case]
    jaxdp.register_task("mine", lambda inputs: kind(inputs))
    with pytest.raises(UserError) as error:
        make_task(load(config_file, "task=mine"))
    sentence = str(error.value)
    assert sentence.startswith("task 'mine'") and sentence.endswith((".", "?"))
    for fragment in fragments:
        assert fragment in sentence, sentence


CLASSES = [
    "field", "packing", "architecture", "head", "option", "comma", "metric", "arguments", "loss arguments", "no task",
]  # fmt: skip


@pytest.mark.parametrize("case", CLASSES)
def test_a_class_is_refused_when_it_is_registered(case):
    kind, *fragments = DECLARED[case]
    with pytest.raises(UserError) as error:
        jaxdp.register_task("mine", kind)
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)


def test_the_place_of_the_class_is_named():
    class Misspelled(Own):
        packings = ("cuts",)

    line = Path(__file__).read_text().split("class Misspelled")[0].count("\n") + 1
    with pytest.raises(UserError) as error:
        jaxdp.register_task("mine", Misspelled)
    assert f"Misspelled in {__file__}, line {line}): packings has 'cuts'" in str(error.value)


class Changed(Own):
    """The task with a function applied to what one of its methods returns."""

    def __init__(self, inputs, case, method, change):
        super().__init__(inputs)
        self.method, self.change, self.prepared_with = method, change, {"case": case}

    def changed(self, method, result):
        return self.change(result) if method == self.method else result

    def prepare(self, record, tokenizer):
        return self.changed("prepare", super().prepare(record, tokenizer))

    def make_batch(self, examples, seed, step, row_ids):
        return self.changed("make_batch", super().make_batch(examples, seed, step, row_ids))

    def batch_spec(self, rows):
        return self.changed("batch_spec", super().batch_spec(rows))


def register(case, method, change):
    jaxdp.register_task("mine", lambda inputs: Changed(inputs, case, method, change))


def renamed(batch):
    return {("target" if name == "targets" else name): array for name, array in batch.items()}


def with_floats(batch):
    return {name: np.asarray(array, np.float32) for name, array in batch.items()}


RETURNED = {
    "prepare none": ("prepare", lambda example: None, "must return a dict of arrays, such as", "found None (NoneType)"),
    "prepare list": ("prepare", lambda example: [1], "must return a dict of arrays"),
    "prepare floats": ("prepare", lambda example: {"tokens": example["tokens"] / 2}, "'tokens' must be one number or an array of whole numbers with one axis, found float64 ["),
    "prepare matrix": ("prepare", lambda example: {"tokens": example["tokens"][None]}, "with one axis, found"),
    "prepare text": ("prepare", lambda example: {"tokens": "text"}, "'tokens' must be one number or an array"),
    "prepare negative": ("prepare", lambda example: {"tokens": np.array([3, -100])}, "'tokens' has the number -100, but"),
    "prepare name": ("prepare", lambda example: {"token": example["tokens"]}, "returns no array 'tokens', which row_lengths has a length of; did you mean 'token'?"),
    "batch none": ("make_batch", lambda batch: None, "must return a dict of arrays, those of batch_spec, found None"),
    "batch name": ("make_batch", renamed, "returns no 'targets', which batch_spec has, but 'target': use the same names in both."),
    "batch more": ("make_batch", lambda batch: batch | {"mask": batch["weights"]}, "returns 'mask', which batch_spec has not"),
    "batch shape": ("make_batch", lambda batch: batch | {"weights": batch["weights"][:, :-1]}, "'weights' is float32 [16, 15], but batch_spec has float32 [16, 16]: make them equal."),
    "batch dtype": ("make_batch", with_floats, "is float32 [16, 16], but batch_spec has int32 [16, 16]: make them equal."),
    "batch list": ("make_batch", lambda batch: batch | {"weights": [1.0]}, "'weights' is no array but [1.0] (list)"),
    "spec none": ("batch_spec", lambda spec: None, "must return a dict of jax.ShapeDtypeStruct by name, found None"),
    "spec rows": ("batch_spec", lambda spec: {name: jax.ShapeDtypeStruct((3,), np.int32) for name in spec}, "the first axis of 'tokens' must be the"),
    "spec value": ("batch_spec", lambda spec: dict.fromkeys(spec, 3), "'tokens' must be a jax.ShapeDtypeStruct, found 3 (int)"),
}  # fmt: skip


def first_batch(config):
    """Prepares a run up to its first batch, without compiling anything."""
    from jaxdp.data.loader import Shard, make_loader
    from jaxdp.tasks.make import batch_spec
    from jaxdp.training.prepared_run import prepare_run

    prepared = prepare_run(config)
    batch_spec(prepared.task, 2)
    make_batch = make_training_batch(prepared.spec, prepared.task, prepared.data.vocabularies)
    loader = make_loader(prepared.spec, prepared.data, prepared.task, make_batch, Shard(1, 0))
    return next(loader.batches(0))


@pytest.mark.parametrize("case", RETURNED)
def test_a_wrong_result_is_refused_before_the_first_step(case, config_file):
    method, change, *fragments = RETURNED[case]
    register(case, method, change)
    with pytest.raises(UserError) as error:
        first_batch(load(config_file, "task=mine"))
    assert f"in {__file__}, line" in str(error.value) or "text.txt" in str(error.value)
    for fragment in fragments:
        assert fragment in str(error.value), str(error.value)


def test_arrays_of_other_records_are_refused(config_file, tmp_path):
    numbers = iter(range(100))

    def more_later(example):
        return example | ({"label": np.int32(1)} if next(numbers) else {})

    (tmp_path / "lines.jsonl").write_text('{"text": "one text"}\n' * 10)
    register("more later", "prepare", more_later)
    config = load(config_file, "task=mine", f"data.path={tmp_path / 'lines.jsonl'}", "data.source=jsonl")
    with pytest.raises(UserError, match="must return the same arrays for every record, found tokens for the first"):
        first_batch(config)


def test_an_array_without_a_length_is_refused(config_file):
    register("types", "prepare", lambda example: example | {"types": example["tokens"]})
    with pytest.raises(UserError, match="returns the array 'types', which row_lengths has no length of: add it"):
        first_batch(load(config_file, "task=mine", "data.packing=none"))


def test_numbers_of_64_bits_pass_and_only_the_first_batch_is_checked(config_file):
    calls = []

    def wide(batch):
        calls.append(1)
        return {
            name: array.astype(np.int64 if array.dtype.kind == "i" else np.float64) for name, array in batch.items()
        }

    register("wide", "make_batch", wide)
    assert first_batch(load(config_file, "task=mine"))["tokens"].dtype == np.int64
    task = make_task(load(config_file, "task=mine"))
    make_batch = make_training_batch(dataset_spec(load(config_file, "task=mine")), task, None)
    examples = {"tokens": np.zeros((2, 17), np.int32), "num_tokens": np.full(2, 17, np.int32)}
    make_batch(examples, 0, 0, np.arange(2, dtype=np.int32))
    task.batch_spec = lambda rows: pytest.fail("checked again")
    make_batch(examples, 0, 1, np.arange(2, dtype=np.int32))


@pytest.mark.parametrize(
    "case", others_slow(["prepare none", "batch none", "batch shape", "spec none"], "prepare none")
)
def test_the_command_line_ends_with_exit_code_2(case, config_file, tmp_path, capsys):
    method, change, fragment, *_ = RETURNED[case]
    register(case, method, change)
    assert train(config_file, tmp_path, "--config.task=mine") == 2
    assert fragment in assert_refused(capsys)


class Summarized(Own):
    """The task with a summary of the whole split."""

    eval_outputs = ("sums",)

    def __init__(self, inputs, changes):
        super().__init__(inputs)
        self.changes = changes

    def outputs(self, apply, params, batch):
        return self.changes.get("outputs", {"sums": batch["weights"].sum(-1)})

    def derived_metrics(self, means):
        return self.changes.get("derived_metrics", {"double": 2 * means["loss"]})

    def summarize(self, outputs):
        return self.changes.get("summarize", Summary({"rows": len(outputs["sums"])}, {}))


EVALUATED = {
    "outputs none": ("outputs", None, "must return a dict with 'sums', which eval_outputs names, found None (NoneType)."),
    "outputs": ("outputs", {"sum": 1}, "must return a dict with 'sums', which eval_outputs names, found 'sum'."),
    "derived none": ("derived_metrics", None, "must give a dict of numbers by metric, found None (NoneType)."),
    "derived": ("derived_metrics", {"a": "b"}, "the metric 'a' must be one number, found 'b' (str)."),
    "summary none": ("summarize", None, "must return jaxdp.tasks.Summary(metrics, report), found None (NoneType)."),
    "summary metrics": ("summarize", Summary(None, {}), "must give a dict of numbers by metric, found None (NoneType)."),
    "summary report": ("summarize", Summary({}, None), "Summary.report must be a dict of plain JSON values, found None"),
}  # fmt: skip


@pytest.mark.parametrize("case", others_slow(EVALUATED, "outputs"))
def test_a_wrong_result_of_an_evaluation_is_refused(case, config_file, tmp_path, capsys):
    method, result, fragment = EVALUATED[case]
    jaxdp.register_task("mine", lambda inputs: Summarized(inputs, {method: result}))
    assert train(config_file, tmp_path, "--config.task=mine", "--config.total_steps=1") == 2
    sentence = assert_refused(capsys)
    assert (
        sentence.startswith(f"{method} of the task (Summarized.{method} in {__file__}, line ") and fragment in sentence
    )


def test_the_task_without_a_fault_trains(config_file, tmp_path):
    jaxdp.register_task("mine", Own)
    assert train(config_file, tmp_path, "--config.task=mine") == 0
    assert all(np.isfinite(line["train/loss"]) for line in metrics_lines(tmp_path))


class Weightless(Own):
    """The task without a prediction that counts."""

    def make_batch(self, examples, seed, step, row_ids):
        batch = super().make_batch(examples, seed, step, row_ids)
        return batch | {"weights": np.zeros_like(batch["weights"])}


class SometimesWeightless(Own):
    """The task with a training batch that does not count, the second."""

    def make_batch(self, examples, seed, step, row_ids):
        batch = super().make_batch(examples, seed, step, row_ids)
        return batch | {"weights": batch["weights"] * np.float32(step != 1)}


def test_a_run_without_weights_does_not_end_as_if_it_had_learned(config_file, tmp_path, capsys):
    jaxdp.register_task("mine", Weightless)
    assert train(config_file, tmp_path, "--config.task=mine") == 3
    sentence = assert_refused(capsys, 3)
    assert sentence.startswith(
        "nothing was learned: all 6 updates were skipped, and the parameters are still the initial"
    )
    assert "no prediction of the batch counts: the weight of the loss is 0" in sentence


@pytest.mark.slow  # test_step.py skips and counts it
def test_an_update_without_weights_is_skipped_and_counted(config_file, tmp_path, capsys):
    jaxdp.register_task("mine", SometimesWeightless)
    assert train(config_file, tmp_path, "--config.task=mine") == 0
    assert [line["train/skipped"] for line in metrics_lines(tmp_path, "train/skipped")] == [0, 1, 1, 1, 1, 1]
    assert "updates were skipped" not in capsys.readouterr().err
