"""The configuration of a whole run, read from a preset or a YAML file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field

from kgpt.config.bottleneck import BottleneckConfig
from kgpt.config.classification import ClassificationConfig
from kgpt.config.distillation import DistillConfig
from kgpt.config.distribute import DistributeConfig
from kgpt.config.finetune import FinetuneConfig
from kgpt.config.grpo import GRPOConfig
from kgpt.config.lora import LoraConfig
from kgpt.config.model import ModelConfig
from kgpt.config.preference import PreferenceConfig
from kgpt.config.prefix import PrefixConfig
from kgpt.config.renamed_keys import with_renamed_keys
from kgpt.config.sampling import SamplingConfig
from kgpt.config.section import Section, did_you_mean
from kgpt.config.training import DataConfig, TrainConfig
from kgpt.errors import UsageError
from kgpt.files import describe_damage, is_lfs_pointer


class Config(Section):
    """The configuration of a run: the contents of `run.yaml` and of the presets."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    bottleneck: BottleneckConfig = Field(default_factory=BottleneckConfig)
    prefix: PrefixConfig = Field(default_factory=PrefixConfig)
    grpo: GRPOConfig = Field(default_factory=GRPOConfig)
    preference: PreferenceConfig = Field(default_factory=PreferenceConfig)
    classification: ClassificationConfig = Field(default_factory=ClassificationConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    distribute: DistributeConfig = Field(default_factory=DistributeConfig)

    @property
    def max_text_length(self) -> int:
        """The longest text of the model, in tokens: its context, without a prefix it is given."""
        prefix = self.prefix.num_virtual_tokens if self.finetune.method == "prefix" else 0
        return self.model.max_length - prefix

    @classmethod
    def load(cls, source: str, overrides: dict[str, Any] | None = None) -> Self:
        """Read a preset name or a YAML file, then apply `overrides` such as {"train.seed": 1}."""
        return cls.parse(_overridden(_read(source), overrides or {}))

    @classmethod
    def resume(cls, run_yaml: Path, source: str | None, overrides: dict[str, Any]) -> Self:
        """Read a run's configuration, changed where the preset or file `source` states a value.

        `overrides` change it further, as in `load`.
        """
        values = read_yaml(run_yaml)
        for section, keys in (_read(source) if source else {}).items():
            values[section] = values.get(section, {}) | keys
        return cls.parse(_overridden(values, overrides))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(source: str) -> dict[str, Any]:
    """The keys that a preset or a YAML file states."""
    return read_yaml(preset_path(source) or Path(source))


def _overridden(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    return values


def presets(finetune: bool | None = None) -> dict[str, Path]:
    """Names and files of the presets shipped with kgpt.

    With `finetune`, only those that do, or that do not, fine-tune a model.
    """
    folder = Path(str(resources.files("kgpt_configs")))
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if finetune is None:
        return found
    return {name: path for name, path in found.items() if _finetunes(path) == finetune}


def _finetunes(preset: Path) -> bool:
    return "\nfinetune:" in preset.read_text(encoding="utf-8")


def preset_path(source: str) -> Path | None:
    """The file of the preset `source`; None if `source` is itself a file."""
    known = presets()
    if source in known:
        return known[source]
    if Path(source).is_file():
        return None
    raise UsageError(
        f"No preset or file is called {source!r}; "
        + (did_you_mean(source, known) or f"the presets are {', '.join(known)}.")
    )


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; a `ValueError` of one line if it is invalid."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_yaml(path: Path, sections: bool = True) -> dict[str, Any]:
    """The keys of a YAML file, not yet validated.

    With `sections`, each value must be a mapping, or empty, which is all defaults; its renamed keys
    get their current names.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a valid YAML file: {error}.") from None
    if is_lfs_pointer(path):
        raise UsageError(describe_damage(path, ""))
    if not isinstance(values, dict):
        raise UsageError(f"{path} must be a mapping of keys to values.")
    if not sections:
        return values
    values = {section: {} if keys is None else keys for section, keys in values.items()}
    if not all(isinstance(keys, dict) for keys in values.values()):
        raise UsageError(f"{path} must have sections such as 'model:' and 'train:' with keys.")
    return {section: with_renamed_keys(keys) for section, keys in values.items()}
