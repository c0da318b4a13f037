"""Imported models against transformers, with random parameters: outputs with padding on either side, and greedy tokens."""

import inspect
import json

import numpy as np
import pytest
from family_cases import CASES, VOCAB

pytest.importorskip("torch", reason="parity with transformers needs torch: pip install torch transformers")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs it: pip install transformers")

import torch  # noqa: E402

import jaxdp  # noqa: E402
from jaxdp.decoding.sampling import Sampling  # noqa: E402
from jaxdp.inference.decoder import Decoder  # noqa: E402
from jaxdp.interop.exporting import export_model  # noqa: E402
from jaxdp.interop.importing import import_model  # noqa: E402

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
        for parameter in model.parameters():  # norms and biases start as ones and zeros, which hide mistakes
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


@pytest.mark.parametrize("side", ["", "right", "left"])
def test_outputs_are_equal(models, side):
    model, _, workdir = models
    tokens, mask, positions = batch(model, side)
    offset = model.config.pad_token_id + 1 if "Roberta" in type(model).__name__ else 0
    given = {"position_ids": positions + offset} if takes_positions(model) and side == "left" else {}
    expected = outputs(model, input_ids=tokens, attention_mask=mask, **given)
    found = np.asarray(jaxdp.load(workdir, cpu_devices=8).apply(tokens, attention_mask=mask, positions=positions))
    if found.ndim == 3:
        found, expected = found[mask], expected[mask]
    elif side == "left":  # transformers takes the first token, which is padding
        found, expected = found[:1], expected[:1]
    if side == "left" and not takes_positions(model):
        found, expected = found[:1], expected[:1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))


def test_an_export_is_the_same_model(models):
    model, folder, workdir = models
    out = export_model(workdir, folder.with_name("out"))
    tokens, mask, _ = batch(model, "right")
    again = type(model).from_pretrained(out).eval()
    np.testing.assert_array_equal(
        outputs(again, input_ids=tokens, attention_mask=mask), outputs(model, input_ids=tokens, attention_mask=mask)
    )
    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_greedy_tokens_are_equal(models):
    model, _, workdir = models
    if not model.can_generate() or "MaskedLM" in type(model).__name__:
        pytest.skip("generates nothing")
    loaded = jaxdp.load(workdir, cpu_devices=8)
    prompts = [np.array([5, 17, 3]), np.array([40])]
    decoder = Decoder(loaded.device_model, loaded.device_params, loaded.topology, Sampling(temperature=0), -1)
    for prompt, found in zip(prompts, decoder.continue_rows(prompts, [0, 0], NUM_NEW), strict=True):
        ids = torch.tensor(prompt[None])
        with torch.no_grad():
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_NEW)
        np.testing.assert_array_equal(found, whole[0, len(prompt) :].numpy())
