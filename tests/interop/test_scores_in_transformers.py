"""Fine-tuned and exported models in transformers: losses and generated tokens are those of `jaxdp eval` and `jaxdp predict`."""

import csv
import json
import random

import pytest
from family_cases import CASES

pytest.importorskip("torch", reason="scores in transformers need torch: pip install torch transformers")
transformers = pytest.importorskip("transformers", reason="scores need it: pip install transformers")

import torch  # noqa: E402

import jaxdp  # noqa: E402
from jaxdp.cli.main import main  # noqa: E402
from jaxdp.data.tokenizers.training import train_wordpiece  # noqa: E402
from jaxdp.interop.exporting import export_model  # noqa: E402
from jaxdp.interop.importing import import_model  # noqa: E402

WORDS = {"ball": "money", "goal": "bank", "team": "loan", "field": "fund"}
LENGTH = 20
START_ID, OWN_START_ID = 3, 5
"""First decoder input of the folder, and of the run that sets another."""
RECIPE = """
from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = {task!r}
    config.total_steps = 3
    config.global_batch_size = 8
    config.data.source = "csv"
    config.data.path = {path!r}
    config.data.length = {length}
    config.data.packing = "none"
    config.optim.warmup_steps = 1
    config.optim.learning_rate = 1e-2
    config.parallel.cpu_devices = 8
    return config
"""
TASKS = {"gpt2": "causal_lm", "t5_v1_1": "seq2seq", "marian": "seq2seq", "bert_classifier": "classification"}
"""Case of `family_cases` -> task of its fine-tuning."""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Path of a table of short texts with their translations and labels, of different lengths."""
    path, rows = tmp_path_factory.mktemp("records") / "records.csv", random.Random(0)
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, ("text", "source", "target", "label"))
        table.writeheader()
        for number in range(30):
            words = rows.choices(list(WORDS), k=1 + number % 4)
            text, target = " ".join(words), " ".join(WORDS[word] for word in words)
            table.writerow({"text": text, "source": text, "target": target, "label": words[0][0]})
    return path


@pytest.fixture(scope="module", params=TASKS)
def tuned(request, records, tmp_path_factory):
    """Task, work directory of the fine-tuning of a random model, and the model of its export in transformers."""
    kind, config_kind, values = CASES[request.param]
    directory, task = tmp_path_factory.mktemp(request.param), TASKS[request.param]
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[START]")
    tokenizer = train_wordpiece(60, records.read_text().splitlines(), special)
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": tokenizer.eos_id}
    ids["vocab_size"] = tokenizer.vocab_size  # jaxdp never samples an id without a token
    values = {"num_labels": 2, **values} if task == "classification" else values
    values = values | ids | ({"decoder_start_token_id": START_ID} if task == "seq2seq" else {})
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config_kind)(**values))
    model.save_pretrained(directory / "hf")
    tokenizer.save(directory / "hf" / "tokenizer.json")
    recipe = directory / "recipe.py"
    recipe.write_text(RECIPE.format(task=task, path=str(records), length=LENGTH))
    options = [f"--config.init_from=hf:{directory / 'hf'}", f"--workdir={directory / 'run'}"]
    options += {
        "bert_classifier": ["--config.classification.pooling=first"],
        "marian": [f"--config.seq2seq.start_id={OWN_START_ID}"],
    }.get(request.param, [])
    assert main(["train", f"--config={recipe}", *options]) == 0
    out = export_model(directory / "run", directory / "out")
    theirs = getattr(transformers, json.loads((out / "config.json").read_text())["architectures"][0])
    return task, directory / "run", out, theirs.from_pretrained(out).eval()


def texts_of(records, field):
    with open(records, newline="") as file:
        return [row[field] for row in csv.DictReader(file)]


def encoded(out, texts):
    """Token ids as transformers' own class reads the exported tokenizer."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"))
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], tokenizer


def losses_of(task, out, model, records):
    """Mean loss of each record and the number of predictions it is the mean of, one record at a time."""
    eos = json.loads((out / "config.json").read_text())["eos_token_id"]
    if task == "seq2seq":
        sources, targets = (encoded(out, texts_of(records, field))[0] for field in ("source", "target"))
        inputs = [
            ({"input_ids": [*a, eos], "labels": [*b, eos]}, len(b) + 1) for a, b in zip(sources, targets, strict=True)
        ]
    elif task == "causal_lm":
        inputs = [
            ({"input_ids": [*a, eos], "labels": [*a, eos]}, len(a)) for a in encoded(out, texts_of(records, "text"))[0]
        ]
    else:
        texts, tokenizer = encoded(out, texts_of(records, "text"))
        first, last = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        names = {name: number for number, name in enumerate(sorted(set(texts_of(records, "label"))))}
        labels = [names[label] for label in texts_of(records, "label")]
        inputs = [({"input_ids": [first, *a, last], "labels": b}, 1) for a, b in zip(texts, labels, strict=True)]
    with torch.no_grad():
        return [
            (model(**{key: torch.tensor([value]) for key, value in each.items()}).loss.item(), n) for each, n in inputs
        ]


def test_the_loss_is_that_of_eval(tuned, records):
    task, run, out, model = tuned
    losses = losses_of(task, out, model, records)
    expected = sum(loss * number for loss, number in losses) / sum(number for _, number in losses)
    found = jaxdp.evaluate(run, data={"eval_path": str(records)}, cpu_devices=8)
    assert found["eval/loss"] == pytest.approx(expected, abs=1e-4)
    if task == "causal_lm":  # an import has windows of joined texts, not texts
        return
    again = jaxdp.evaluate(import_model(out, out.with_name("again")), data={"eval_path": str(records)}, cpu_devices=8)
    assert again["eval/loss"] == pytest.approx(expected, abs=1e-4)


def test_the_first_decoder_input_is_that_of_the_source_unless_the_run_sets_it(tuned):
    task, run, out, model = tuned
    if task != "seq2seq":
        pytest.skip("has no decoder of a target")
    expected = OWN_START_ID if "Marian" in type(model).__name__ else START_ID
    assert json.loads((run / "config.json").read_text())["seq2seq"]["start_id"] == expected
    for name in ("config.json", "generation_config.json"):
        assert json.loads((out / name).read_text())["decoder_start_token_id"] == expected


def test_greedy_targets_are_those_of_predict(tuned, records):
    task, run, out, model = tuned
    if task != "seq2seq":
        pytest.skip("predicts no text")
    texts = texts_of(records, "source")[:4]
    sources, tokenizer = encoded(out, texts)
    eos = model.config.eos_token_id
    expected = []
    for ids in sources:
        tokens = model.generate(torch.tensor([[*ids, eos]]), do_sample=False, num_beams=1, max_new_tokens=LENGTH)
        expected.append(tokenizer.decode(tokens[0, 1:], skip_special_tokens=True))
    found = [answer["text"] for answer in jaxdp.load(run, cpu_devices=8).predict(texts)]
    assert found == expected
