"""Hugging Face folders with random tensors, named and shaped as transformers writes them, without torch."""

import json

import numpy as np

from jaxdp.safetensors_file import write_file

VOCAB, LENGTH, WIDTH, HIDDEN, LAYERS, HEADS = 48, 16, 8, 12, 2, 2

GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCAB, "n_positions": LENGTH, "n_embd": WIDTH,
    "n_layer": LAYERS, "n_head": HEADS, "n_inner": HIDDEN, "eos_token_id": [1, 2], "bos_token_id": 50256,
}  # fmt: skip

BERT = {
    "architectures": ["BertForMaskedLM"], "model_type": "bert", "vocab_size": VOCAB, "max_position_embeddings": LENGTH,
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": HIDDEN,
}  # fmt: skip


def gpt2_shapes(
    prefix="transformer.", vocab=VOCAB, length=LENGTH, width=WIDTH, hidden=HIDDEN, layers=LAYERS, has_masks=True
):
    shapes = {
        "wte.weight": (vocab, width),
        "wpe.weight": (length, width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }
    masks = {"attn.bias": (1, 1, length, length)} if has_masks else {}
    for layer in range(layers):
        for name, shape in {
            "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
            "attn.c_attn.weight": (width, 3 * width), "attn.c_attn.bias": (3 * width,), **masks,
            "attn.c_proj.weight": (width, width), "attn.c_proj.bias": (width,), "mlp.c_fc.weight": (width, hidden),
            "mlp.c_fc.bias": (hidden,), "mlp.c_proj.weight": (hidden, width), "mlp.c_proj.bias": (width,),
        }.items():  # fmt: skip
            shapes[f"h.{layer}.{name}"] = shape
    return {prefix + name: shape for name, shape in shapes.items()}


def bert_shapes(prefix="bert.", weight="weight", bias="bias"):
    shapes = {
        "embeddings.word_embeddings.weight": (VOCAB, WIDTH), "embeddings.position_embeddings.weight": (LENGTH, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH), "embeddings.LayerNorm": (WIDTH,),
        "embeddings.position_ids": (1, LENGTH), "pooler.dense": (WIDTH, WIDTH),
    }  # fmt: skip
    for layer in range(LAYERS):
        for name, shape in {
            "attention.self.query": (WIDTH, WIDTH), "attention.self.key": (WIDTH, WIDTH),
            "attention.self.value": (WIDTH, WIDTH), "attention.output.dense": (WIDTH, WIDTH),
            "attention.output.LayerNorm": (WIDTH,), "intermediate.dense": (HIDDEN, WIDTH), "output.dense": (WIDTH, HIDDEN),
            "output.LayerNorm": (WIDTH,),
        }.items():  # fmt: skip
            shapes[f"encoder.layer.{layer}.{name}"] = shape
    head = {"cls.predictions.transform.dense": (WIDTH, WIDTH), "cls.predictions.transform.LayerNorm": (WIDTH,)}
    head |= {"cls.predictions.bias": (VOCAB,)}
    whole = {}
    for name, shape in ({prefix + name: shape for name, shape in shapes.items()} | head).items():
        if name.rpartition(".")[2] in ("weight", "bias", "position_ids"):
            whole[name] = shape
        elif name.endswith("LayerNorm"):
            whole |= {f"{name}.{weight}": shape, f"{name}.{bias}": shape}
        else:
            whole |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return whole


def random_tensors(shapes, dtype="float32"):
    rng = np.random.default_rng(0)
    return {name: (0.3 * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def write_folder(folder, config, tensors, **files):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_file(folder / "model.safetensors", tensors)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder
