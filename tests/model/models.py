"""Models of every architecture, built once a process, with a small vocabulary and context."""

import functools

from tests.tiny import ARCHITECTURES, tiny_model

SIZE = {"vocab_size": 37, "max_length": 24}
KINDS = {kind: {**shape, **SIZE} for kind, shape in ARCHITECTURES.items() if kind != "llama"}
KINDS["llama"] = KINDS.pop("untied")
SMALL, LLAMA = KINDS["gpt2"], KINDS["llama"]


@functools.cache
def model_of(kind, **options):
    """A `kgpt.GPT` of one of `KINDS`, all weights far from their initial 0 and 1.

    Shared between tests: do not change it.
    """
    return tiny_model(seed=3, noise=0.3, **KINDS[kind], **options)
