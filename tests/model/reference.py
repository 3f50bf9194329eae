"""GPT-2 and Llama in plain NumPy, float64, one sequence and one head at a time.

Written from the papers, to be compared with; it shares no code with kgpt.
"""

import math

import numpy as np

from kgpt.checkpoints.pretrained import path_below
from kgpt.config import ModelConfig


def weights_of(model) -> dict[str, np.ndarray]:
    """A model's trainable weights by path, float64."""
    return {path_below(v): np.asarray(v.numpy(), "float64") for v in model.trainable_variables}


def logits(config: ModelConfig, weights: dict[str, np.ndarray], ids) -> np.ndarray:
    """One sequence of token ids (T,) to logits (T, V)."""
    x = weights["token_embedding"][np.asarray(ids)]
    if config.position == "learned":
        x = x + weights["position_embedding"][: len(ids)]
    if config.position == "sinusoidal":
        x = x + sinusoids(len(ids), config.hidden_dim)
    for i in range(config.num_layers):
        block = {
            path.removeprefix(f"block_{i}/"): value
            for path, value in weights.items()
            if path.startswith(f"block_{i}/")
        }
        x = x + attention(config, block, normed(config, block, "attention_norm", x))
        x = x + feed_forward(config, block, normed(config, block, "mlp_norm", x))
    x = normed(config, weights, "final_norm", x)
    return x @ weights.get("head", weights["token_embedding"]).T


def attention(config, block, x):
    """(T, D) to (T, D): each query head by itself, each query token by itself."""
    width, heads, num_kv_heads = config.head_dim, config.num_heads, config.num_kv_heads
    fused = x @ block["attention/qkv"] + block.get("attention/qkv_bias", 0.0)
    query, key, value = np.split(fused, [heads * width, (heads + num_kv_heads) * width], axis=-1)
    out = np.zeros((len(x), heads * width))
    for head in range(heads):
        mine = slice(head * width, (head + 1) * width)
        group = head // (heads // num_kv_heads)
        theirs = slice(group * width, (group + 1) * width)
        q, k, v = query[:, mine], key[:, theirs], value[:, theirs]
        if config.qk_norm:
            q = rms_norm(q, block["attention/query_norm/scale"], config.norm_epsilon)
            k = rms_norm(k, block["attention/key_norm/scale"], config.norm_epsilon)
        if config.position == "rotary":
            q, k = (rotated(t, config.rope_theta) for t in (q, k))
        for t in range(len(x)):
            first = 0 if config.sliding_window is None else max(0, t + 1 - config.sliding_window)
            scores = q[t] @ k[first : t + 1].T / math.sqrt(width)
            out[t, mine] = softmax(scores) @ v[first : t + 1]
    return out @ block["attention/output"] + block.get("attention/output_bias", 0.0)


def feed_forward(config, block, x):
    hidden = x @ block["mlp/up"] + block.get("mlp/up_bias", 0.0)
    if config.activation == "swiglu":
        gate, value = np.split(hidden, 2, axis=-1)
        hidden = gate / (1 + np.exp(-gate)) * value
    elif config.activation == "gelu":
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    else:
        inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        hidden = 0.5 * hidden * (1 + np.tanh(inner))
    return hidden @ block["mlp/down"] + block.get("mlp/down_bias", 0.0)


def normed(config, weights, name, x):
    scale = weights[f"{name}/scale"]
    if config.norm == "rms":
        return rms_norm(x, scale, config.norm_epsilon)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(variance + config.norm_epsilon)
    return normal * scale + weights.get(f"{name}/bias", 0.0)


def rms_norm(x, scale, epsilon):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * scale


def rotated(x, theta):
    """RoFormer's rotation, as complex numbers made of component i and component i + H / 2."""
    half = x.shape[-1] // 2
    pairs = x[:, :half] + 1j * x[:, half:]
    turns = np.arange(len(x))[:, None] / theta ** (np.arange(half) / half)
    pairs = pairs * np.exp(1j * turns)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def sinusoids(length, width):
    """The sines of all wavelengths, then the cosines: Attention Is All You Need, section 3.5."""
    table = np.zeros((length, width))
    half = (width + 1) // 2
    for position in range(length):
        for i in range(width):
            angle = position / 10000 ** ((i % half) / half)
            table[position, i] = math.sin(angle) if i < half else math.cos(angle)
    return table


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()
