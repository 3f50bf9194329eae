"""kgpt: train your own GPT, watch it learn, chat with it and ship it.

Public names are resolved when they are first used, so `import kgpt` costs milliseconds and no
backend is chosen before a model is built.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Config": "kgpt.config",
    "ModelConfig": "kgpt.config",
    "DataConfig": "kgpt.config",
    "TrainConfig": "kgpt.config",
    "SamplingConfig": "kgpt.config",
    "KgptError": "kgpt.errors",
    "Tokenizer": "kgpt.text.tokenizer",
    "TokenDataset": "kgpt.data.shards",
    "TrainDataset": "kgpt.data.dataset",
    "EvaluationDataset": "kgpt.data.dataset",
    "GPT": "kgpt.model.gpt",
    "NextTokenLoss": "kgpt.training.losses",
    "AdamW": "kgpt.training.optimizers",
    "Lion": "kgpt.training.optimizers",
    "Muon": "kgpt.training.optimizers",
    "LRSchedule": "kgpt.training.schedule",
    "WarmupCosine": "kgpt.training.schedule",
}
__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kgpt' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
