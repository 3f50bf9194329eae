"""The reference of `kgpt verify`: GPT-2, Llama and their relatives in NumPy, in float64.

It shares no code with the layers in `kgpt/model`, needs no backend, and rounds so little that a
difference to it is the error of the other side. It reads weights a model directory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kgpt.config import ModelConfig
from kgpt.verification.rope import rope_frequencies

# Called with a layer's path, input and output.
Record = Callable[[str, np.ndarray, np.ndarray], None]
# Of each layer: keys and values (B, K, S, H) of the tokens so far.
Cache = list[tuple[np.ndarray, np.ndarray]]

_erf = np.vectorize(math.erf, otypes=["float64"])


def _no_record(path: str, x: np.ndarray, y: np.ndarray) -> None:
    """Record nothing."""


class Reference:
    """A model in NumPy.

    Args:
        config: the architecture.
        weights: the variables of a `kgpt.GPT` by path, as `kgpt.checkpoints.weights` names them.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> None:
        self.config = config
        self.weights = {path: np.asarray(w, "float64") for path, w in weights.items()}

    @classmethod
    def load(cls, folder: Path) -> Reference:
        """The model of a model directory, or of an adapter, merged into its base model."""
        from kgpt.checkpoints.pretrained import load_config
        from kgpt.checkpoints.weights import Weights

        config = load_config(folder)
        weights = Weights(folder, config)
        return cls(config, {path: weights.read(path) for path in weights.shapes})

    def logits(self, ids: np.ndarray, record: Record = _no_record) -> np.ndarray:
        """Logits (B, T, V) of token ids (B, T); `record` is called for each layer in turn."""
        return self.forward(ids, None, record)[0]

    def greedy(
        self, prompt: list[int], num_tokens: int, stop_ids: frozenset[int]
    ) -> tuple[list[int], np.ndarray]:
        """Greedy decoding: the tokens up to and with a stop token, and their logits (n, V)."""
        ids, rows = list(prompt), list[np.ndarray]()
        logits, cache = self.forward(np.array([ids]))
        while len(rows) < num_tokens:
            rows.append(logits[0, -1])
            ids.append(int(rows[-1].argmax()))
            if ids[-1] in stop_ids or len(rows) == num_tokens:
                break
            logits, cache = self.forward(np.array([ids[-1:]]), cache)
        return ids[len(prompt) :], np.stack(rows)

    def forward(
        self, ids: np.ndarray, cache: Cache | None = None, record: Record = _no_record
    ) -> tuple[np.ndarray, Cache]:
        """Logits (B, T, V) of tokens (B, T) that follow those in `cache`; the longer cache."""
        config = self.config
        updated: Cache = []
        start = cache[0][0].shape[2] if cache else 0
        positions = np.arange(start, start + ids.shape[1])
        x = self._embed(ids, positions)  # (B, T, D)
        record("token_embedding", ids, x)
        for i in range(config.num_layers):
            path = f"block_{i}"
            past = cache[i] if cache else None
            normed = self._recorded(record, f"{path}/attention_norm", x, self._norm)
            heads, kv = self._attention(f"{path}/attention", normed, positions, past)
            record(f"{path}/attention", normed, heads)
            x = x + heads
            normed = self._recorded(record, f"{path}/mlp_norm", x, self._norm)
            x = x + self._recorded(record, f"{path}/mlp", normed, self._mlp)
            updated.append(kv)
        x = self._recorded(record, "final_norm", x, self._norm)
        return self._recorded(record, "head", x, self._head), updated

    def _recorded(
        self,
        record: Record,
        path: str,
        x: np.ndarray,
        layer: Callable[[str, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        y = layer(path, x)
        record(path, x, y)
        return y

    def _embed(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        x = self.weights["token_embedding"][ids]
        if self.config.position == "learned":
            return x + self.weights["position_embedding"][positions]
        if self.config.position == "sinusoidal":
            return x + _sinusoids(positions, self.config.hidden_dim)
        return x

    def _head(self, path: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights.get(path, self.weights["token_embedding"]).T

    def _linear(self, path: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[path] + self.weights.get(f"{path}_bias", 0.0)

    def _norm(self, path: str, x: np.ndarray) -> np.ndarray:
        epsilon, scale = self.config.norm_epsilon, self.weights[f"{path}/scale"]
        if self.config.norm == "rms" or path.endswith(("query_norm", "key_norm")):
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return normal * scale + self.weights.get(f"{path}/bias", 0.0)

    def _mlp(self, path: str, x: np.ndarray) -> np.ndarray:
        hidden = self._linear(f"{path}/up", x)
        if self.config.activation == "swiglu":
            gate, value = np.split(hidden, 2, axis=-1)
            hidden = gate / (1 + np.exp(-gate)) * value
        elif self.config.activation == "gelu":
            hidden = hidden * 0.5 * (1 + _erf(hidden / math.sqrt(2)))
        else:  # Hendrycks & Gimpel (2016), the approximation of GPT-2
            inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
            hidden = 0.5 * hidden * (1 + np.tanh(inner))
        return self._linear(f"{path}/down", hidden)

    def _attention(
        self,
        path: str,
        x: np.ndarray,
        positions: np.ndarray,
        past: tuple[np.ndarray, np.ndarray] | None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        config = self.config
        n, k, h = config.num_heads, config.num_kv_heads, config.head_dim
        fused = self._linear(f"{path}/qkv", x)
        fused = fused.reshape(*x.shape[:2], n + 2 * k, h).swapaxes(1, 2)  # (B, N + 2K, T, H)
        query, key, value = np.split(fused, [n, n + k], axis=1)
        if config.qk_norm:
            query = self._norm(f"{path}/query_norm", query)
            key = self._norm(f"{path}/key_norm", key)
        if config.position == "rotary":
            query, key = self._rotated(query, positions), self._rotated(key, positions)
        if past is not None:
            key = np.concatenate([past[0], key], axis=2)  # (B, K, S, H)
            value = np.concatenate([past[1], value], axis=2)
        repeated = [np.repeat(part, n // k, axis=1) for part in (key, value)]  # (B, N, S, H)
        scores = query @ repeated[0].swapaxes(2, 3) / math.sqrt(h)  # (B, N, T, S)
        distance = positions[:, None] - np.arange(key.shape[2])[None]  # (T, S)
        seen = (distance >= 0) & (distance < (config.sliding_window or config.max_length + 1))
        heads = _softmax(np.where(seen, scores, -np.inf)) @ repeated[1]  # (B, N, T, H)
        flat = heads.swapaxes(1, 2).reshape(*x.shape[:2], n * h)
        return self._linear(f"{path}/output", flat), (key, value)

    def _rotated(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Heads (B, N, T, H), each pair (i, i + H / 2) turned as a complex number."""
        frequencies, magnitude = rope_frequencies(self.config)
        half = x.shape[-1] // 2
        turns = np.exp(1j * positions[:, None] * frequencies) * magnitude
        pairs = (x[..., :half] + 1j * x[..., half:]) * turns
        return np.concatenate([pairs.real, pairs.imag], axis=-1)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _sinusoids(positions: np.ndarray, width: int) -> np.ndarray:
    """(T, D): Vaswani et al. (2017), section 3.5, all sines before all cosines."""
    half = (width + 1) // 2
    angles = positions[:, None] / 10000 ** (np.arange(half) / half)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)[:, :width]
