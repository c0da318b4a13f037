"""The published models on Hugging Face, randomly initialised: the same numbers from the same parameters."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import jitted

from jaxdp.model import model_config, parameter_shapes
from jaxdp.model.rotary import rotary_tables
from jaxdp.trees import named_leaves

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

VOCAB_SIZE, WIDTH, MLP, HEADS, LAYERS = 50, 32, 48, 4, 2
SHAPES = {"num_layers": LAYERS, "num_heads": HEADS, "embed_dim": WIDTH, "mlp_dim": MLP, "dropout_rate": 0.0}


def arrays_of(model):
    """Every parameter of a torch model by name, in float32, made large enough to matter.

    A table of sines is fixed, though torch lists it among the parameters.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.normal_(0, 0.3).add_(float(parameter.ndim == 1))
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def nested(leaves, config):
    """Our tree from `{path: array}`; every parameter must be given, in its shape."""
    tree = {}
    for name, shape in named_leaves(parameter_shapes(config)):
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        assert leaves[name].shape == shape.shape, name
        branch[last] = jnp.asarray(leaves[name])
    return tree


def dense(arrays, theirs, ours):
    kernel = {f"{ours}/kernel": arrays[f"{theirs}.weight"].T}
    return kernel | ({f"{ours}/bias": arrays[f"{theirs}.bias"]} if f"{theirs}.bias" in arrays else {})


def norm(arrays, theirs, ours):
    scale = {f"{ours}/scale": arrays[f"{theirs}.weight"]}
    return scale | ({f"{ours}/bias": arrays[f"{theirs}.bias"]} if f"{theirs}.bias" in arrays else {})


def translate(arrays, table):
    """`{(theirs, ours): dense or norm}` applied."""
    return {name: array for (theirs, ours), kind in table.items() for name, array in kind(arrays, theirs, ours).items()}


def tokens_and_padding(length, shortest, seed):
    random = np.random.default_rng(seed)
    valid = np.arange(length)[None, :] < np.array([[length], [shortest]])
    return random.integers(3, VOCAB_SIZE, (2, length)), valid


def as_torch(array):
    return torch.from_numpy(np.ascontiguousarray(array)).long()


def test_bert():
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=MLP,
            max_position_embeddings=16,
        )
    ).eval()
    arrays = arrays_of(model)
    config = model_config("bert_base", SHAPES, vocab_size=VOCAB_SIZE, max_length=16, head="masked_lm")
    embeddings = "bert.embeddings"
    leaves = {
        "token_embedding": arrays[f"{embeddings}.word_embeddings.weight"],
        "position_embedding": arrays[f"{embeddings}.position_embeddings.weight"],
        "token_type_embedding": arrays[f"{embeddings}.token_type_embeddings.weight"],
        "output_bias": arrays["cls.predictions.bias"],
    }
    table = {
        (f"{embeddings}.LayerNorm", "embedding_norm"): norm,
        ("cls.predictions.transform.dense", "masked_lm/dense"): dense,
        ("cls.predictions.transform.LayerNorm", "masked_lm/norm"): norm,
    }
    for layer in range(LAYERS):
        theirs, ours = f"bert.encoder.layer.{layer}", f"layer_{layer}"
        table |= {
            (f"{theirs}.attention.self.{name}", f"{ours}/attention/{name}"): dense for name in ("query", "key", "value")
        }
        table |= {
            (f"{theirs}.attention.output.dense", f"{ours}/attention/out"): dense,
            (f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm"): norm,
            (f"{theirs}.intermediate.dense", f"{ours}/mlp/up"): dense,
            (f"{theirs}.output.dense", f"{ours}/mlp/down"): dense,
            (f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm"): norm,
        }
    tokens, valid = tokens_and_padding(12, 7, seed=0)
    types = np.arange(12)[None, :] // 5 % 2 + np.zeros((2, 1), int)
    with torch.no_grad():
        expected = model(as_torch(tokens), attention_mask=as_torch(valid), token_type_ids=as_torch(types)).logits
    actual = jitted(config)(
        nested(leaves | translate(arrays, table), config),
        jnp.asarray(tokens),
        attention_mask=jnp.asarray(valid),
        token_types=jnp.asarray(types),
    )
    np.testing.assert_allclose(np.asarray(actual)[valid], expected.numpy()[valid], rtol=1e-4, atol=1e-4)


def test_vaswani_post_norm():
    """Marian's translation models have the published architecture, position tables in halves as ours."""
    model = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=VOCAB_SIZE,
            d_model=WIDTH,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=MLP,
            decoder_ffn_dim=MLP,
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=16,
            pad_token_id=1,
            eos_token_id=0,
            decoder_start_token_id=1,
        )
    ).eval()
    arrays = arrays_of(model)
    config = model_config("transformer_base", SHAPES | {"norm_epsilon": 1e-5}, vocab_size=VOCAB_SIZE, max_length=16)
    table = {}
    for side in ("encoder", "decoder"):
        for layer in range(LAYERS):
            theirs, ours = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            attentions = {"self_attn": "attention"} | ({"encoder_attn": "cross_attention"} if side == "decoder" else {})
            for from_name, to_name in attentions.items():
                for part, name in {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}.items():
                    table[f"{theirs}.{from_name}.{part}", f"{ours}/{to_name}/{name}"] = dense
                table[f"{theirs}.{from_name}_layer_norm", f"{ours}/{to_name}_norm"] = norm
            table |= {
                (f"{theirs}.fc1", f"{ours}/mlp/up"): dense,
                (f"{theirs}.fc2", f"{ours}/mlp/down"): dense,
                (f"{theirs}.final_layer_norm", f"{ours}/mlp_norm"): norm,
            }
    leaves = {"token_embedding": arrays["model.shared.weight"]} | translate(arrays, table)
    compare_pairs(model, config, leaves, length=12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"rope_scaling": "linear", "rope_factor": 1.0}, {"rope_type": "linear", "factor": 1.0}),
        (
            {"rope_scaling": "llama3", "rope_factor": 32.0, "rope_original_length": 8192},
            {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}
            | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        ),
        (
            {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_high_freq_factor": 32.0, "rope_original_length": 32768},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        ),
        (
            {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_high_freq_factor": 32.0, "rope_attention_factor": 1.5}
            | {"rotary_fraction": 0.5},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192, "attention_factor": 1.5}
            | {"partial_rotary_factor": 0.5},
        ),
    ],
)
def test_rotary_tables_up_to_a_long_context(ours, theirs):
    """To the rounding of a cosine: the last bit of a frequency would be a thousandth at position 8,192."""
    shapes = {"num_heads": 2, "embed_dim": 256, "positions": "rotary", "rotary_base": 500000.0}
    config = model_config("nano", shapes | ours, vocab_size=5, max_length=8)
    rope = {"rope_theta": 500000.0} | theirs
    llama = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=2, max_position_embeddings=131072, rope_parameters=rope
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](llama, "cpu")
    angles = torch.arange(8192)[:, None].float() * frequencies[None]
    cosine, sine = (np.asarray(table)[0, :, 0] for table in rotary_tables(jnp.arange(8192)[None], config))
    half = len(frequencies)
    np.testing.assert_allclose(cosine[:, :half], (angles.cos() * factor).numpy(), atol=1e-6)
    np.testing.assert_allclose(sine[:, half:], (angles.sin() * factor).numpy(), atol=1e-6)


def test_t5():
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCAB_SIZE,
            d_model=WIDTH,
            d_kv=WIDTH // HEADS,
            d_ff=MLP,
            num_layers=LAYERS,
            num_heads=HEADS,
            feed_forward_proj="relu",
            tie_word_embeddings=True,
        )
    ).eval()
    arrays = arrays_of(model)
    scales = {"attention_scale": 1.0, "output_scale": WIDTH**-0.5}
    config = model_config("t5_small", SHAPES | scales, vocab_size=VOCAB_SIZE, max_length=200)
    table, leaves = {}, {"token_embedding": arrays["shared.weight"]}
    for side in ("encoder", "decoder"):
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        leaves[f"{side}/relative_embedding"] = arrays[bias]
        table[f"{side}.final_layer_norm", f"{side}/final_norm"] = norm
        for layer in range(LAYERS):
            theirs, ours = f"{side}.block.{layer}.layer", f"{side}/layer_{layer}"
            branches = ["attention", "cross_attention", "mlp"] if side == "decoder" else ["attention", "mlp"]
            for index, branch in enumerate(branches):
                table[f"{theirs}.{index}.layer_norm", f"{ours}/{branch}_norm"] = norm
                if branch == "mlp":
                    inner = f"{theirs}.{index}.DenseReluDense"
                    table |= {(f"{inner}.wi", f"{ours}/mlp/up"): dense, (f"{inner}.wo", f"{ours}/mlp/down"): dense}
                    continue
                inner = f"{theirs}.{index}.{'SelfAttention' if branch == 'attention' else 'EncDecAttention'}"
                for part, name in {"q": "query", "k": "key", "v": "value", "o": "out"}.items():
                    table[f"{inner}.{part}", f"{ours}/{branch}/{name}"] = dense
    leaves |= translate(arrays, table)
    compare_pairs(model, config, leaves, length=180)


def compare_pairs(model, config, leaves, length):
    source, valid = tokens_and_padding(length, length - 5, seed=1)
    target, _ = tokens_and_padding(length - 3, length - 3, seed=2)
    with torch.no_grad():
        expected = model(
            as_torch(source), attention_mask=as_torch(valid), decoder_input_ids=as_torch(target)
        ).logits.numpy()
    actual = jitted(config)(
        nested(leaves, config),
        jnp.asarray(source),
        attention_mask=jnp.asarray(valid),
        target_tokens=jnp.asarray(target),
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
