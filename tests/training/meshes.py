"""Architectures and meshes of the tests of many devices."""

import numpy as np

STEPS, BATCH, LENGTH, VOCAB = 20, 8, 16, 104
GPT2 = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32}
LLAMA = GPT2 | {
    "num_kv_heads": 2, "position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False,
    "tie_embeddings": False,
}  # fmt: skip
ARCHITECTURES = {"gpt2": GPT2, "llama": LLAMA}
MESHES = {
    "one": {},
    "data": {"data": 8},
    "model": {"model": 2},
    "mixed": {"data": 4, "model": 2},
    "sequence": {"data": 4, "model": 2, "sequence": True},
    "fsdp": {"data": 8, "fsdp": True},
    "mixed_fsdp": {"data": 4, "model": 2, "fsdp": True},
}


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first inputs and targets of an endless row of random ones, each (B, T)."""
    noise = np.random.default_rng(0).integers(0, VOCAB, (count, BATCH, LENGTH + 1))
    return [(row[:, :-1], row[:, 1:]) for row in noise.astype("int32")]
