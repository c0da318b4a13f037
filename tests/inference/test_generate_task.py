"""Only a decoder with a language model head continues prompts."""

from types import SimpleNamespace

import pytest

from jaxdp.errors import UserError
from jaxdp.inference.generate import _tokenizer_of


def restored(architecture, **model_options):
    return SimpleNamespace(
        run=SimpleNamespace(directory=SimpleNamespace(root="runs/mine")),
        task=SimpleNamespace(predict_fields=(), model_options=model_options),
        config=SimpleNamespace(task="mine", model=SimpleNamespace(architecture=architecture)),
        tokenizer=object(),
    )


@pytest.mark.parametrize(
    ("architecture", "head"), [("encoder", "classification"), ("decoder", "classification"), ("encoder", "masked_lm")]
)
def test_other_models_are_refused(architecture, head):
    with pytest.raises(UserError, match=f"architecture {architecture} with the head {head}, expected a decoder"):
        _tokenizer_of(restored(architecture, head=head))


def test_a_language_model_passes():
    _tokenizer_of(restored("decoder", head="language_model"))
    _tokenizer_of(restored("decoder"))
