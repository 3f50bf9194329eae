"""kgpt: train your own GPT, watch it learn, chat with it and ship it.

>>> import kgpt
>>> generator = kgpt.load("demo")  # doctest: +SKIP
>>> generator.generate("ROMEO:", max_tokens=80).text  # doctest: +SKIP

Public names are imported at first use, so `import kgpt` takes milliseconds and chooses no backend.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kgpt.keras_registration import register_with_keras

if TYPE_CHECKING:
    from kgpt.checkpoints.adapters import add_bottleneck as add_bottleneck
    from kgpt.checkpoints.adapters import add_lora as add_lora
    from kgpt.checkpoints.adapters import add_prefix as add_prefix
    from kgpt.checkpoints.adapters import load_adapter as load_adapter
    from kgpt.checkpoints.adapters import merge_lora as merge_lora
    from kgpt.checkpoints.adapters import save_adapter as save_adapter
    from kgpt.config import BottleneckConfig as BottleneckConfig
    from kgpt.config import ClassificationConfig as ClassificationConfig
    from kgpt.config import Config as Config
    from kgpt.config import DataConfig as DataConfig
    from kgpt.config import FinetuneConfig as FinetuneConfig
    from kgpt.config import GRPOConfig as GRPOConfig
    from kgpt.config import LoraConfig as LoraConfig
    from kgpt.config import ModelConfig as ModelConfig
    from kgpt.config import PreferenceConfig as PreferenceConfig
    from kgpt.config import PrefixConfig as PrefixConfig
    from kgpt.config import SamplingConfig as SamplingConfig
    from kgpt.config import ServeConfig as ServeConfig
    from kgpt.config import TrainConfig as TrainConfig
    from kgpt.data.chat_dataset import ChatDataset as ChatDataset
    from kgpt.data.dataset import EvaluationDataset as EvaluationDataset
    from kgpt.data.dataset import TrainDataset as TrainDataset
    from kgpt.data.preference_dataset import PreferenceDataset as PreferenceDataset
    from kgpt.data.preference_dataset import UnpairedPreferenceDataset as UnpairedPreferenceDataset
    from kgpt.data.preference_files import read_labeled_completions as read_labeled_completions
    from kgpt.data.preference_files import read_pairs as read_pairs
    from kgpt.data.shards import TokenDataset as TokenDataset
    from kgpt.errors import CheckpointError as CheckpointError
    from kgpt.errors import DataError as DataError
    from kgpt.errors import KgptError as KgptError
    from kgpt.errors import RunError as RunError
    from kgpt.errors import UsageError as UsageError
    from kgpt.generation.completion import Completion as Completion
    from kgpt.generation.generator import TextGenerator as TextGenerator
    from kgpt.generation.load import load as load
    from kgpt.generation.scoring import ScoredPrompt as ScoredPrompt
    from kgpt.generation.text_classifier import Classification as Classification
    from kgpt.generation.text_classifier import TextClassifier as TextClassifier
    from kgpt.model.classifier import Classifier as Classifier
    from kgpt.model.freezing import freeze as freeze
    from kgpt.model.gpt import GPT as GPT
    from kgpt.protocol import GenerationChunk as GenerationChunk
    from kgpt.text.tokenizer import Tokenizer as Tokenizer
    from kgpt.training.classification_loss import ClassificationLoss as ClassificationLoss
    from kgpt.training.distiller import Distiller as Distiller
    from kgpt.training.grpo_loss import GRPOLoss as GRPOLoss
    from kgpt.training.losses import NextTokenLoss as NextTokenLoss
    from kgpt.training.metrics import BitsPerByte as BitsPerByte
    from kgpt.training.metrics import Perplexity as Perplexity
    from kgpt.training.optimizers import AdamW as AdamW
    from kgpt.training.optimizers import Lion as Lion
    from kgpt.training.optimizers import Muon as Muon
    from kgpt.training.preference_losses import DPOLoss as DPOLoss
    from kgpt.training.preference_losses import IPOLoss as IPOLoss
    from kgpt.training.preference_losses import KTOLoss as KTOLoss
    from kgpt.training.preference_losses import ORPOLoss as ORPOLoss
    from kgpt.training.reference import reference_log_probs as reference_log_probs
    from kgpt.training.rollouts import RolloutDataset as RolloutDataset
    from kgpt.training.schedule import LRSchedule as LRSchedule
    from kgpt.training.schedule import WarmupCosine as WarmupCosine

__version__ = "0.1.0"

_MODULES = {
    "kgpt.checkpoints.adapters": (
        "add_bottleneck", "add_lora", "add_prefix", "load_adapter", "merge_lora", "save_adapter",
    ),
    "kgpt.config": (
        "BottleneckConfig", "ClassificationConfig", "Config", "DataConfig", "FinetuneConfig",
        "GRPOConfig", "LoraConfig", "ModelConfig", "PreferenceConfig", "PrefixConfig",
        "SamplingConfig", "ServeConfig", "TrainConfig",
    ),
    "kgpt.data.chat_dataset": ("ChatDataset",),
    "kgpt.data.dataset": ("EvaluationDataset", "TrainDataset"),
    "kgpt.data.preference_dataset": ("PreferenceDataset", "UnpairedPreferenceDataset"),
    "kgpt.data.preference_files": ("read_labeled_completions", "read_pairs"),
    "kgpt.data.shards": ("TokenDataset",),
    "kgpt.errors": ("CheckpointError", "DataError", "KgptError", "RunError", "UsageError"),
    "kgpt.generation.completion": ("Completion",),
    "kgpt.generation.generator": ("TextGenerator",),
    "kgpt.generation.load": ("load",),
    "kgpt.generation.scoring": ("ScoredPrompt",),
    "kgpt.generation.text_classifier": ("Classification", "TextClassifier"),
    "kgpt.model.classifier": ("Classifier",),
    "kgpt.model.freezing": ("freeze",),
    "kgpt.model.gpt": ("GPT",),
    "kgpt.protocol": ("GenerationChunk",),
    "kgpt.text.tokenizer": ("Tokenizer",),
    "kgpt.training.classification_loss": ("ClassificationLoss",),
    "kgpt.training.grpo_loss": ("GRPOLoss",),
    "kgpt.training.distiller": ("Distiller",),
    "kgpt.training.losses": ("NextTokenLoss",),
    "kgpt.training.metrics": ("BitsPerByte", "Perplexity"),
    "kgpt.training.optimizers": ("AdamW", "Lion", "Muon"),
    "kgpt.training.preference_losses": ("DPOLoss", "IPOLoss", "KTOLoss", "ORPOLoss"),
    "kgpt.training.reference": ("reference_log_probs",),
    "kgpt.training.rollouts": ("RolloutDataset",),
    "kgpt.training.schedule": ("LRSchedule", "WarmupCosine"),
}  # fmt: skip
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kgpt' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__


register_with_keras()
