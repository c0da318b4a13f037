"""The whole model once more, in NumPy and float64, one row and one head at a time."""

import math

import jax
import numpy as np


def exact(params):
    """The parameters in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def reference_norm(x, p, config):
    if config.norm == "layernorm":
        x = x - x.mean(-1, keepdims=True)
    return reference_rms(x, p, config) + p.get("bias", 0.0)


def reference_rms(x, p, config):
    scale = config.norm_offset + p["scale"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_epsilon) * scale


def reference_dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0.0)


def reference_frequencies(config, windowed):
    """Angle of each pair at position 1, and the factor of cosines and sines, one pair at a time by the wavelength."""
    half, factor, length = config.rotary_dim // 2, config.rope_factor, config.rope_original_length
    is_local = windowed and config.rotary_local_base > 0
    base = config.rotary_local_base if is_local else config.rotary_base
    plain = [base ** (-i / half) for i in range(half)]
    if is_local or config.rope_scaling == "none":
        return plain, 1.0
    if config.rope_scaling == "linear":
        return [frequency / factor for frequency in plain], 1.0
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    scaled = []
    if config.rope_scaling == "llama3":
        for frequency in plain:
            wavelength = 2 * math.pi / frequency
            if wavelength > length / low:
                frequency /= factor
            elif wavelength > length / high:
                smooth = (length / wavelength - low) / (high - low)
                frequency = (1 - smooth) * frequency / factor + smooth * frequency
            scaled.append(frequency)
        return scaled, 1.0
    first, last = (half * math.log(length / (turns * 2 * math.pi)) / math.log(base) for turns in (high, low))
    first, last = max(math.floor(first), 0), min(math.ceil(last), 2 * half - 1)
    for i, frequency in enumerate(plain):
        ramp = min(max((i - first) / (last - first), 0), 1)
        scaled.append(ramp * frequency / factor + (1 - ramp) * frequency)
    return scaled, config.rope_attention_factor or 0.1 * math.log(factor) + 1


def reference_rotate(x, positions, frequencies, factor):
    """`[length, head_dim]`: pairs (i, i + half) turned by position * frequency, and lengthened by the factor."""
    half = len(frequencies)
    turned = np.array(x)
    for row, position in enumerate(positions):
        for i in range(half):
            angle = position * frequencies[i]
            a, b = x[row, i], x[row, i + half]
            turned[row, i] = factor * (a * math.cos(angle) - b * math.sin(angle))
            turned[row, i + half] = factor * (b * math.cos(angle) + a * math.sin(angle))
    return turned


def reference_activation(x, kind):
    if kind == "gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    if kind == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if kind == "silu":
        return x / (1 + np.exp(-x))
    return np.maximum(x, 0) ** (2 if kind == "relu2" else 1)


def reference_bucket(before, causal, num_buckets=32, max_distance=128):
    """Of a key that stands `before` tokens before its query: as T5's code computes it, by logarithms."""
    first, distance = 0, max(before, 0)
    if not causal:
        num_buckets = num_buckets // 2
        first, distance = num_buckets if before < 0 else 0, abs(before)
    half = num_buckets // 2
    if distance < half:
        return first + distance
    # Rounding must not push an exact power into the bucket below.
    step = int(math.log(distance / half) / math.log(max_distance / half) * (num_buckets - half) + 1e-9)
    return first + min(half + step, num_buckets - 1)


def reference_attention(x, source, p, config, allowed, bias=None, windowed=False, values=0.0):
    """From `[length, embed_dim]` to `source`, one head at a time; `bias(head)` `[length, source_length]`."""
    query = reference_dense(x, p["query"])
    key, value = (reference_dense(source, p[name]) for name in ("key", "value"))
    value = value + values
    width, positions = config.head_dim, range(len(x))
    outputs = []
    for head in range(config.num_heads):
        group = head // (config.num_heads // config.num_kv_heads)
        q = query[:, head * width : (head + 1) * width]
        k = key[:, group * width : (group + 1) * width]
        v = value[:, group * width : (group + 1) * width]
        if config.qk_norm:
            q, k = (reference_rms(part, p[name], config) for part, name in ((q, "query_norm"), (k, "key_norm")))
        if config.positions == "rotary" and x is source:
            rates = reference_frequencies(config, windowed)
            q, k = (reference_rotate(part, positions, *rates) for part in (q, k))
        scores = q @ k.T * config.attention_scale
        if config.attention_logit_softcap:
            scores = config.attention_logit_softcap * np.tanh(scores / config.attention_logit_softcap)
        if bias is not None:
            scores = scores + bias[:, :, head]
        weights = np.where(allowed, np.exp(scores), 0)
        outputs.append(weights / weights.sum(-1, keepdims=True) @ v)
    return reference_dense(np.concatenate(outputs, -1), p["out"])


GATES = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}


def reference_mlp(x, p, config):
    up = reference_dense(x, p["up"])
    if config.activation in GATES:
        gate = reference_activation(reference_dense(x, p["gate"]), GATES[config.activation])
        return reference_dense(up * gate, p["down"])
    return reference_dense(reference_activation(up, config.activation), p["down"])


def reference_stack(params, tokens, x, config, stack, source=None):
    """Hidden states of one stack, from the vectors `[length, embed_dim]` of its tokens."""
    length, embed = x.shape
    bias = None
    x = x * config.embedding_scale
    if config.positions == "learned":
        x = x + params["position_embedding"][config.position_offset :][:length]
    if config.positions == "sinusoidal":
        angles = np.arange(length)[:, None] / 10000 ** (2 * np.arange(embed // 2) / embed)
        x = x + np.concatenate([np.sin(angles), np.cos(angles)], -1)
    if config.positions == "relative":
        sizes = config.relative_buckets, config.relative_max_distance
        rows = [[reference_bucket(q - k, stack.causal, *sizes) for k in range(length)] for q in range(length)]
        bias = params["relative_embedding"][np.array(rows)]
    if config.num_token_types:
        x = x + params["token_type_embedding"][0]
    if config.embedding_norm:
        x = reference_norm(x, params["embedding_norm"], config)
    everything = np.tri(length) if stack.causal else np.ones((length, length))
    inside = np.tril(np.triu(everything, 1 - config.attention_window), config.attention_window - 1)
    pattern = (config.attention_window_pattern or (1,)) * stack.num_layers
    embeddings = x
    for index in range(stack.num_layers):
        p = params[f"layer_{index}"]
        if config.residual_scalars:
            x = p["residual_scalar"] * x + p["embedding_scalar"] * embeddings
        for name in ("attention", "cross_attention", "mlp"):
            if name not in p:
                continue
            norm, post = p.get(f"{name}_norm"), config.norm_position == "post"
            inputs = x if post or norm is None else reference_norm(x, norm, config)
            if name == "attention":
                values = 0.0
                if config.value_embeddings and index in range(stack.num_layers - 1, -1, -2):
                    added = params[f"value_embedding_{index // 2}"]
                    values = added["scalar"] * added["embedding"][tokens]
                windowed = bool(config.attention_window and pattern[index])
                allowed = inside if windowed else everything
                branch = reference_attention(inputs, inputs, p[name], config, allowed, bias, windowed, values)
            elif name == "cross_attention":
                branch = reference_attention(inputs, source, p[name], config, np.ones((length, len(source))))
            else:
                branch = reference_mlp(inputs, p["mlp"], config)
            if config.norm_position == "both":
                branch = reference_norm(branch, p[f"{name}_post_norm"], config)
            x = reference_norm(x + branch, norm, config) if post else x + branch
    return x if config.norm_position == "post" else reference_norm(x, params["final_norm"], config)


def reference_hidden(params, tokens, config):
    """Hidden states of one row, of the encoder or of the only stack."""
    x = params["token_embedding"][tokens]
    if config.has_source:
        return reference_stack(params["encoder"], tokens, x, config, config.encoder)
    stack = config.encoder if config.architecture == "encoder" else config.decoder
    return reference_stack(params, tokens, x, config, stack)


def reference_row(params, tokens, config, target_tokens=None):
    """Logits of one row, float64."""
    x = reference_hidden(params, tokens, config)
    table = params["token_embedding"]
    if config.has_source:
        table = params.get("target_token_embedding", table)
        x = reference_stack(params["decoder"], target_tokens, table[target_tokens], config, config.decoder, source=x)
    if config.head == "masked_lm":
        activation = GATES.get(config.activation, config.activation)
        x = reference_activation(reference_dense(x, params["masked_lm"]["dense"]), activation)
        x = reference_norm(x, params["masked_lm"]["norm"], config)
    logits = config.output_scale * x @ (table.T if config.tie_embeddings else params["output"]["kernel"])
    logits = logits + params.get("output_bias", 0.0)
    return config.logit_softcap * np.tanh(logits / config.logit_softcap) if config.logit_softcap else logits
