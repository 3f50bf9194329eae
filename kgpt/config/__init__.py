"""Every option of runs, sampling and the server, declared once.

`ModelConfig`, `DataConfig`, `TrainConfig`, `SamplingConfig`, `FinetuneConfig`, `LoraConfig`,
`BottleneckConfig`, `PrefixConfig`, `GRPOConfig`, `StructuredOutputConfig`, `ServeConfig`,
`EvaluationConfig`, `SweepConfig` and `DocumentSelectionConfig` are pydantic models. Command-line
flags, YAML keys, the controls of the terminal app and the HTTP schema are generated from them, so
an invalid value gives the same error everywhere. What only one command needs, such as an output
file, is a parameter of that command in `kgpt.cli`. Nothing here imports Keras.
"""

from kgpt.config.bottleneck import BottleneckConfig
from kgpt.config.classification import ClassificationConfig
from kgpt.config.distillation import DistillConfig, draft_of
from kgpt.config.distribute import DistributeConfig
from kgpt.config.document_selection import DocumentSelectionConfig
from kgpt.config.evaluation import EvaluationConfig, EvaluationSuite, SuiteEntry
from kgpt.config.finetune import FinetuneConfig
from kgpt.config.grpo import GRPOConfig
from kgpt.config.loading import Config, parse_yaml, preset_path, presets, read_yaml
from kgpt.config.lora import LoraConfig
from kgpt.config.memory import MEMORY_FRACTION, default_loss_chunk, memory_fraction
from kgpt.config.model import ModelConfig, RopeScaling
from kgpt.config.overrides import options, parse_overrides
from kgpt.config.precision import (
    QUANTIZED_BITS,
    DtypeOption,
    InferenceDtype,
    KVCacheDtype,
    Precision,
    QuantizedDtype,
    allows_tf32,
    compute_dtype,
    weight_format,
)
from kgpt.config.preference import PREFERENCE_OBJECTIVES, PreferenceConfig
from kgpt.config.prefix import PrefixConfig
from kgpt.config.resume import Changes, config_changes, is_fixed
from kgpt.config.sampling import SamplingConfig
from kgpt.config.section import Section, did_you_mean, sentence
from kgpt.config.serving import ServeConfig
from kgpt.config.skipped_steps import SkippedSteps
from kgpt.config.structured_output import StructuredOutputConfig
from kgpt.config.sweep import SweepConfig
from kgpt.config.training import DataConfig, TrainConfig

__all__ = [
    "MEMORY_FRACTION",
    "PREFERENCE_OBJECTIVES",
    "QUANTIZED_BITS",
    "BottleneckConfig",
    "Changes",
    "ClassificationConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "DistributeConfig",
    "DocumentSelectionConfig",
    "DtypeOption",
    "EvaluationConfig",
    "EvaluationSuite",
    "FinetuneConfig",
    "GRPOConfig",
    "InferenceDtype",
    "KVCacheDtype",
    "LoraConfig",
    "ModelConfig",
    "Precision",
    "PreferenceConfig",
    "PrefixConfig",
    "QuantizedDtype",
    "RopeScaling",
    "SamplingConfig",
    "Section",
    "ServeConfig",
    "SkippedSteps",
    "StructuredOutputConfig",
    "SuiteEntry",
    "SweepConfig",
    "TrainConfig",
    "allows_tf32",
    "compute_dtype",
    "config_changes",
    "default_loss_chunk",
    "did_you_mean",
    "draft_of",
    "is_fixed",
    "memory_fraction",
    "options",
    "parse_overrides",
    "parse_yaml",
    "preset_path",
    "presets",
    "read_yaml",
    "sentence",
    "weight_format",
]
