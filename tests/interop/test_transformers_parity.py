"""Imported models against transformers, with random parameters: outputs with padding on either side, and greedy tokens."""

import functools
import inspect
import json

import jax
import numpy as np
import pytest
from family_cases import CASES, VOCAB

pytest.importorskip("torch", reason="parity with transformers needs torch: pip install torch transformers")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs it: pip install transformers")

import torch  # noqa: E402

import jaxdp  # noqa: E402
from jaxdp.decoding.beam import BeamSearch  # noqa: E402
from jaxdp.decoding.eos import truncate_at_eos  # noqa: E402
from jaxdp.decoding.sampling import Sampling  # noqa: E402
from jaxdp.decoding.strategy import make_decode_function  # noqa: E402
from jaxdp.inference.decoder import Decoder  # noqa: E402
from jaxdp.interop.exporting import export_model  # noqa: E402
from jaxdp.interop.importing import import_model  # noqa: E402
from jaxdp.model import init_cache  # noqa: E402
from jaxdp.tasks.model_functions import apply_model  # noqa: E402

LENGTH, NUM_NEW = 24, 8
NO_END = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module", params=CASES)
def models(request, tmp_path_factory):
    """Class of transformers, the model, its folder and the work directory of its import."""
    kind, config_kind, values = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "hf"
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config_kind)(**NO_END | values)).eval()
    with torch.no_grad():
        for (
            name,
            parameter,
        ) in model.named_parameters():  # norms and biases start as ones and zeros, which hide mistakes
            if "embed_positions" not in name:  # sinusoidal, and not in a folder
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model, folder, import_model(folder, folder.with_name("work"))


def outputs(model, **inputs):
    with torch.no_grad():
        found = model(**{name: torch.tensor(array.astype(np.int64)) for name, array in inputs.items()})
    return (found.logits if "logits" in found else found.last_hidden_state).numpy()


def batch(model, side):
    tokens = np.random.default_rng(0).integers(3, VOCAB, (3, LENGTH))
    mask = np.ones((3, LENGTH), bool)
    if side:
        mask[1, slice(15, None) if side == "right" else slice(9)] = mask[
            2, slice(-1, None) if side == "right" else slice(1)
        ] = False
    return np.where(mask, tokens, model.config.pad_token_id), mask, np.maximum(mask.cumsum(1) - 1, 0)


def takes_positions(model):
    return "position_ids" in inspect.signature(model.forward).parameters


def loaded_pooling(workdir):
    return jaxdp.load(workdir, cpu_devices=8).model.config.pooling


@pytest.mark.parametrize("side", ["", "right", "left"])
def test_outputs_are_equal(models, side):
    model, _, workdir = models
    tokens, mask, positions = batch(model, side)
    offset = model.config.pad_token_id + 1 if "Roberta" in type(model).__name__ else 0
    theirs, ours = {}, {}
    if takes_positions(model) and side == "left":
        theirs, ours = {"position_ids": positions + offset}, {"positions": positions}
    if model.config.is_encoder_decoder:
        targets = tokens[:, ::-1][:, :17]
        theirs, ours = {"decoder_input_ids": targets.copy()}, {"target_tokens": targets}
    expected = outputs(model, input_ids=tokens, attention_mask=mask, **theirs)
    found = np.asarray(jaxdp.load(workdir, cpu_devices=8).apply(tokens, attention_mask=mask, **ours))
    if found.ndim == 3 and not model.config.is_encoder_decoder:
        found, expected = found[mask], expected[mask]
    elif side == "left" and found.ndim == 2 and loaded_pooling(workdir) == "first":  # transformers takes padding
        found, expected = found[:1], expected[:1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def test_an_export_is_the_same_model(models):
    model, folder, workdir = models
    out = export_model(workdir, folder.with_name("out"))
    tokens, mask, _ = batch(model, "right")
    again = type(model).from_pretrained(out).eval()
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    np.testing.assert_array_equal(outputs(again, **inputs), outputs(model, **inputs))
    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_greedy_tokens_are_equal(models):
    model, _, workdir = models
    if not model.can_generate() or "MaskedLM" in type(model).__name__:
        pytest.skip("generates nothing")
    loaded = jaxdp.load(workdir, cpu_devices=8)
    if model.config.is_encoder_decoder:
        return greedy_targets_are_equal(model, loaded)
    prompts = [np.array([5, 17, 3]), np.array([40])]
    decoder = Decoder(loaded.device_model, loaded.device_params, loaded.topology, Sampling(temperature=0), -1)
    for prompt, found in zip(prompts, decoder.continue_rows(prompts, [0, 0], NUM_NEW), strict=True):
        ids = torch.tensor(prompt[None])
        with torch.no_grad():
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_NEW)
        np.testing.assert_array_equal(found, whole[0, len(prompt) :].numpy())


@pytest.mark.parametrize("num_beams", [1, 3])
def test_any_id_of_a_list_ends_a_text(models, num_beams):
    """`eos_token_id` of a generation_config.json is a list; with a length penalty of 0 both score alike."""
    model, _, workdir = models
    if type(model).__name__ != "GPT2LMHeadModel":
        pytest.skip("one model tells")
    loaded = jaxdp.load(workdir, cpu_devices=8)
    prompts = [np.array([5, 17, 3]), np.array([40]), np.array([7, 7])]
    free = Decoder(loaded.device_model, loaded.device_params, loaded.topology, Sampling(temperature=0), -1)
    ends = tuple({int(row[number]): 0 for number, row in enumerate(free.continue_rows(prompts, [0] * 3, NUM_NEW), 2)})
    strategy = Sampling(temperature=0) if num_beams == 1 else BeamSearch(num_beams, length_penalty=0.0)
    decoder = Decoder(loaded.device_model, loaded.device_params, loaded.topology, strategy, ends)
    if num_beams == 1:
        found = decoder.continue_rows(prompts, [0] * 3, NUM_NEW)
    else:
        found = [best[0][0] for best in decoder.search(prompts, NUM_NEW)]
    assert len(ends) > 1 and any(len(row) < NUM_NEW for row in found)
    for prompt, row in zip(prompts, found, strict=True):
        ids = torch.tensor(prompt[None])
        settings = {"num_beams": num_beams, "length_penalty": 0.0, "early_stopping": True} if num_beams > 1 else {}
        with torch.no_grad():
            whole = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_NEW,
                eos_token_id=list(ends), pad_token_id=0, **settings,
            )  # fmt: skip
        np.testing.assert_array_equal(row, truncate_at_eos(whole[0, len(prompt) :].numpy(), ends))


def greedy_targets_are_equal(model, loaded):
    tokens, mask, _ = batch(model, "right")
    start = loaded.task.start_id
    decode = make_decode_function(
        functools.partial(apply_model, loaded.model),
        functools.partial(init_cache, loaded.model.config),
        Sampling(temperature=0),
        num_new=NUM_NEW,
        eos_id=-1,
    )
    first = np.full((len(tokens), 1), start, np.int32)
    inputs = {"tokens": first, "prompt_mask": np.ones_like(first, bool), "offset": np.zeros(len(tokens), np.int32)}
    inputs |= {"source_tokens": tokens.astype(np.int32), "source_mask": mask, "seeds": np.zeros(len(tokens), np.uint32)}
    found = np.asarray(jax.jit(decode)(loaded.params, inputs)["tokens"])[:, 0]
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask.astype(np.int64)),
            do_sample=False,
            num_beams=1,
            min_new_tokens=NUM_NEW,
            max_new_tokens=NUM_NEW,
        ).numpy()
    assert (expected[:, 0] == start).all()
    np.testing.assert_array_equal(found, expected[:, 1:])
