"""The configuration: every option of kgpt, declared once.

`ModelConfig`, `DataConfig`, `TrainConfig` and `SamplingConfig` are pydantic models. Command-line
flags, YAML keys, the controls of the terminal app and the HTTP schema are rendered from them, so a
bad value is refused with the same sentence everywhere. Nothing here imports Keras.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from kgpt.errors import UsageError

# What a model is held in while it writes; int8 is for its matrices, the rest is float32 then.
InferenceDtype = Literal["float32", "bfloat16", "float16", "int8"]


def _none_or(value: Any, validate: Callable[[Any], int]) -> int | None:
    return None if value is None else validate(value)


# An integer that is derived from the others when it is not given.
DerivedInt = Annotated[int, Field(ge=1), WrapValidator(_none_or)]
DERIVED: Any = None


class Section(BaseModel):
    """A group of options: unknown keys are refused, assignments are checked."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "") -> Self:
        """Validate `values`; on failure raise a `UsageError` that names the key and its remedy.

        >>> TrainConfig.parse({"batch_sise": 4}, "train")
        Traceback (most recent call last):
            ...
        kgpt.errors.UsageError: Unknown key train.batch_sise; did you mean train.batch_size?
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UsageError(sentence(error, cls, where)) from None


class RopeScaling(Section):
    """How rotary positions are stretched beyond the length a model was first trained on."""

    type: Literal["linear", "dynamic", "llama3", "yarn"] = Field(description="The rule.")
    factor: float = Field(ge=1, le=1e6, description="How many times the context grows.")
    original_max_length: int | None = Field(
        None, ge=1, description="The context before; max_length when not given."
    )
    low_freq_factor: float = Field(1.0, gt=0, description="llama3: where stretching is whole.")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3: where stretching ends.")
    beta_fast: float = Field(32.0, gt=0, description="yarn: turns beyond which nothing stretches.")
    beta_slow: float = Field(1.0, gt=0, description="yarn: turns below which all stretches.")
    attention_factor: float | None = Field(
        None, gt=0, description="yarn: size of the turned heads; 0.1 ln(factor) + 1 if not given."
    )
    truncate: bool = Field(True, description="yarn: round the two bounds outwards.")

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be below high_freq_factor")
        if self.beta_slow > self.beta_fast:
            raise ValueError("beta_slow must not be above beta_fast")
        return self


class ModelConfig(Section):
    """The shape of a GPT.

    The defaults are GPT-2's architecture; `rotary` + `rms` + `swiglu` without biases is Llama's.
    """

    vocab_size: int | None = Field(
        None, ge=2, description="Number of tokens; taken from the data set when not given."
    )
    max_length: int = Field(256, ge=1, description="Longest context, in tokens.")
    num_layers: int = Field(6, ge=1, description="Transformer blocks.")
    num_heads: int = Field(6, ge=1, description="Query heads of each attention layer.")
    num_kv_heads: DerivedInt = Field(
        DERIVED, description="Key/value heads; fewer than query heads is grouped attention."
    )
    hidden_dim: int = Field(384, ge=1, description="Width of the residual stream.")
    head_dim: DerivedInt = Field(
        DERIVED, description="Width of one head; hidden_dim / num_heads when not given."
    )
    intermediate_dim: DerivedInt = Field(
        DERIVED, description="Width of the feed-forward layer; 4 x hidden_dim when not given."
    )
    position: Literal["learned", "rotary", "sinusoidal"] = Field(
        "learned", description="How positions enter the model."
    )
    rope_theta: float = Field(10000.0, gt=0, description="Base wavelength of rotary positions.")
    rope_scaling: RopeScaling | None = Field(
        None, description="How rotary positions are stretched; not at all when not given."
    )
    norm: Literal["layer", "rms"] = Field("layer", description="LayerNorm or RMSNorm.")
    norm_epsilon: float = Field(1e-5, gt=0, description="Added to the variance before its root.")
    activation: Literal["gelu", "gelu_tanh", "swiglu"] = Field(
        "gelu_tanh", description="Non-linearity of the feed-forward layer."
    )
    bias: bool = Field(True, description="Biases in dense layers and LayerNorm.")
    qkv_bias: bool | None = Field(
        None, description="Biases of query, key and value; the same as bias when not given."
    )
    mlp_bias: bool | None = Field(
        None, description="Biases of the feed-forward layer; the same as bias when not given."
    )
    qk_norm: bool = Field(False, description="RMSNorm on queries and keys of each head.")
    sliding_window: int | None = Field(
        None, ge=1, description="Each token sees at most so many tokens back, itself included."
    )
    tie_embeddings: bool = Field(True, description="The output layer shares the token embedding.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on residual branches, attention.")
    initializer_range: float = Field(
        0.02, gt=0, description="Standard deviation of the initial weights."
    )

    @model_validator(mode="after")
    def _derive_shapes(self) -> Self:
        if self.head_dim is None and self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}"
            )
        derived = {
            "num_kv_heads": self.num_heads,
            "head_dim": self.hidden_dim // self.num_heads,
            "intermediate_dim": 4 * self.hidden_dim,
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                self.__dict__[name] = value  # an assignment would validate again
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.head_dim}")
        if self.rope_scaling is not None and self.rope_scaling.original_max_length is None:
            self.rope_scaling.original_max_length = self.max_length
        return self

    @model_serializer(mode="wrap")
    def _leave_derived_out(self, serialize: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """What was derived is None again, so that it follows when the others change."""
        values = serialize(self)
        for name in ("num_kv_heads", "head_dim", "intermediate_dim"):
            if name in values and name not in self.model_fields_set:
                values[name] = None
        return values

    @property
    def has_qkv_bias(self) -> bool:
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def has_mlp_bias(self) -> bool:
        return self.bias if self.mlp_bias is None else self.mlp_bias

    def num_parameters(self) -> int:
        """Number of trainable weights, counted from the shapes alone."""
        d, heads, kv, width = self.hidden_dim, self.num_heads, self.num_kv_heads, self.head_dim
        gated = 2 if self.activation == "swiglu" else 1
        vocab, f = self.known_vocab_size, self.intermediate_dim
        norm = d * (2 if self.norm == "layer" and self.bias else 1)
        attention = d * (heads + 2 * kv) * width + heads * width * d
        attention += (heads + 2 * kv) * width * self.has_qkv_bias + d * self.bias
        attention += 2 * width * self.qk_norm
        mlp = d * gated * f + f * d + (gated * f + d) * self.has_mlp_bias
        embeddings = vocab * d * (1 if self.tie_embeddings else 2)
        embeddings += self.max_length * d * (self.position == "learned")
        return self.num_layers * (attention + mlp + 2 * norm) + norm + embeddings

    def flops_per_token(self, length: int | None = None) -> int:
        """Floating-point operations to train on one token: forward and backward.

        6 for each weight that takes part in a matrix product, plus the attention products
        (PaLM, Appendix B, https://arxiv.org/abs/2204.02311). Position and, unless tied to the
        output, token embeddings are look-ups and are not counted.
        """
        length = length or self.max_length
        looked_up = self.max_length * self.hidden_dim * (self.position == "learned")
        looked_up += self.known_vocab_size * self.hidden_dim * (not self.tie_embeddings)
        attention = 12 * self.num_layers * self.num_heads * self.head_dim * length
        return 6 * (self.num_parameters() - looked_up) + attention

    @property
    def known_vocab_size(self) -> int:
        """V; a `UsageError` if it is not yet known."""
        if self.vocab_size is None:
            raise UsageError("model.vocab_size is not known; give it, or give a data set.")
        return self.vocab_size


class DataConfig(Section):
    """Which data set is trained on, and how its batches are drawn."""

    dir: str | None = Field(None, description="A folder made by `kgpt data prepare`.")
    assistant_only_loss: bool = Field(
        False, description="Of conversations, learn only what the assistant says."
    )
    token_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of input tokens hidden behind the mask token."
    )
    token_replacement: float = Field(
        0.0, ge=0, lt=1, description="Share of input tokens replaced by random ones."
    )


class TrainConfig(Section):
    """How a model is trained. A *step* is one update of the weights."""

    max_steps: int = Field(2000, ge=1, description="Updates of the weights in all.")
    batch_size: int = Field(12, ge=1, description="Sequences in one forward pass.")
    grad_accumulation: int = Field(
        1, ge=1, description="Forward passes whose gradients make one update."
    )
    sequence_length: int | None = Field(
        None, ge=1, description="Tokens in a training sequence; model.max_length when not given."
    )
    optimizer: Literal["adamw", "lion", "muon"] = Field("adamw", description="The optimizer.")
    learning_rate: float = Field(1e-3, gt=0, description="The highest learning rate.")
    min_learning_rate: float = Field(1e-4, ge=0, description="Where the decay ends.")
    warmup_steps: int = Field(100, ge=0, description="Updates of linear warm-up.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after warm-up."
    )
    decay_steps: int | None = Field(
        None, ge=1, description="The update at which the decay ends; max_steps when not given."
    )
    weight_decay: float = Field(0.1, ge=0, description="Decoupled decay, of matrices only.")
    beta_1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta_2: float = Field(0.99, ge=0, lt=1, description="Decay of the second moment.")
    max_grad_norm: float | None = Field(
        1.0, gt=0, description="Largest global norm of the gradient."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all tokens."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Momentum of the averaged weights; 0 keeps none."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the computation; weights stay float32."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    loss_chunk: int = Field(
        4096, ge=1, description="Tokens whose logits are held at once by the loss."
    )
    seed: int = Field(1337, ge=0, lt=2**31, description="Seed of weights, batches and dropout.")
    log_every: int = Field(10, ge=1, description="Steps between metric rows.")
    eval_every: int = Field(250, ge=0, description="Steps between validations; 0 is never.")
    eval_batches: int | None = Field(
        None, ge=1, description="Validation batches; all of the validation set when not given."
    )
    checkpoint_every: int = Field(250, ge=0, description="Steps between checkpoints; 0: the end.")
    keep_checkpoints: int = Field(3, ge=1, description="How many checkpoints are kept.")
    sample_every: int = Field(250, ge=0, description="Steps between samples; 0 is never.")
    sample_prompts: list[str] = Field(["\n"], description="What the samples begin with.")
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after so many validations without improvement."
    )
    tensorboard: bool = Field(False, description="Write TensorBoard event files in the run.")
    tracker: Literal["wandb", "trackio"] | None = Field(
        None, description="Also report to this tracker, which must be installed."
    )

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above "
                f"learning_rate {self.learning_rate}"
            )
        return self

    @property
    def dtype_policy(self) -> str:
        """The Keras dtype policy for `precision`."""
        return self.precision if self.precision == "float32" else f"mixed_{self.precision}"


class SamplingConfig(Section):
    """How the next token is chosen. Temperature 0 is greedy."""

    max_tokens: int = Field(200, ge=1, description="Most tokens to write.")
    min_tokens: int = Field(0, ge=0, description="Fewest tokens to write before the text may end.")
    temperature: float = Field(
        1.0, ge=0, le=100, description="Below 1 is safer, above 1 wilder; 0 takes the likeliest."
    )
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Keep the likeliest tokens that reach this probability."
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="Drop tokens less likely than this share of the likeliest."
    )
    typical_p: float = Field(
        1.0, gt=0, le=1, description="Keep the most typical tokens that reach this probability."
    )
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Above 1 makes tokens already present less likely."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Taken off the logit of each token already written."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Taken off a token's logit for each time it was written."
    )
    logit_bias: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, max_length=1024, description="Added to the logits of these token ids."
    )
    bad_words: list[str] = Field(
        [], max_length=64, description="Words and phrases that are never written."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="The same seed writes the same text; random if not given."
    )
    stop: list[str] = Field(
        [], max_length=64, description="Strings that end the text; they are not returned."
    )
    beam_size: int = Field(1, ge=1, le=64, description="Beams searched; 1 is no beam search.")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="Beam search: above 0 favours longer texts."
    )
    early_stopping: bool = Field(
        False, description="Beam search: end as soon as there are enough finished texts."
    )
    contrastive_alpha: float = Field(
        0.0, ge=0, le=1, description="Contrastive search over top_k: weight of being unlike before."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        if self.beam_size > 1 and self.contrastive_alpha:
            raise ValueError("beam_size and contrastive_alpha are two searches; give one of them")
        return self


class Config(Section):
    """A whole run: what `run.yaml` and the presets hold."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)

    @classmethod
    def load(cls, source: str, overrides: dict[str, Any] | None = None) -> Self:
        """Read a preset name or a YAML file, then apply `overrides` such as {"train.seed": 1}."""
        values = read_yaml(preset_path(source) or Path(source))
        for key, value in (overrides or {}).items():
            section, _, name = key.partition(".")
            values.setdefault(section, {})[name] = value
        return cls.parse(values)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def presets() -> dict[str, Path]:
    """Names and files of the presets that come with kgpt."""
    folder = Path(str(resources.files("kgpt_configs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def preset_path(source: str) -> Path | None:
    """The file of the preset called `source`; None if `source` is a file itself."""
    known = presets()
    if source in known:
        return known[source]
    if Path(source).is_file():
        return None
    raise UsageError(
        f"No preset or file is called {source!r}; "
        + (did_you_mean(source, known) or f"the presets are {', '.join(known)}.")
    )


def read_yaml(path: Path, sections: bool = True) -> dict[str, Any]:
    """The keys of a YAML file, not yet validated; with `sections`, each must hold keys itself."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(f"{path} is not a readable YAML file: {reason}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold keys and their values.")
    if sections and not all(isinstance(value, dict) for value in values.values()):
        raise UsageError(f"{path} must hold sections such as 'model:' and 'train:' with keys.")
    return values


def parse_overrides(tokens: Sequence[str], flags: Iterable[str] = ()) -> dict[str, Any]:
    """Command-line options of the form --section.key value, as {"section.key": value}.

    `flags` are the command's other options, known here only to be suggested.

    >>> parse_overrides(["--train.max-steps", "10", "--model.bias=false", "--train.tensorboard"])
    {'train.max_steps': '10', 'model.bias': 'false', 'train.tensorboard': True}
    """
    known = {f"{section}.{key}": field for section, key, field in options()}
    overrides: dict[str, Any] = {}
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        name, has_value, value = token.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if not token.startswith("--"):
            raise UsageError(f"{token!r} is not expected here; options look like --train.seed 1.")
        if key not in known:
            names = [f"--{option.replace('_', '-')}" for option in known] + list(flags)
            hint = did_you_mean(name, names) or "see `kgpt train --help` for all options."
            raise UsageError(f"Unknown option {name}; {hint}")
        if has_value:
            overrides[key] = _typed(value, known[key])
        elif waiting and not waiting[0].startswith("--"):
            overrides[key] = _typed(waiting.pop(0), known[key])
        elif known[key].annotation is bool:
            overrides[key] = True
        else:
            raise UsageError(f"{name} needs a value.")
    return overrides


def options() -> Iterator[tuple[str, str, FieldInfo]]:
    """Every option there is: section, key, and the field that declares it."""
    for section, owner in Config.model_fields.items():
        for key, field in owner.annotation.model_fields.items():  # type: ignore[union-attr]
            yield section, key, field


def _typed(value: str, field: FieldInfo) -> Any:
    """A command-line word as YAML would read it where text alone does not tell: lists and none."""
    if value.lower() in ("none", "null"):
        return None
    kind = get_origin(field.annotation)
    if kind is list and not value.startswith("["):
        return [value]
    if kind not in (list, dict) and field.annotation != RopeScaling | None:
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"{value} cannot be read; write it as one word, in YAML.") from None


def did_you_mean(name: str, known, prefix: str = "") -> str:
    """'did you mean x?' for the nearest of `known`, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else ""


def sentence(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """The first failure of `error` as one sentence that names the key."""
    failure = error.errors()[0]
    path = [str(part) for part in failure["loc"] if part != "[key]"]
    key = ".".join(([where] if where else []) + path)
    if failure["type"] == "extra_forbidden":
        owner: Any = model
        for part in path[:-1]:
            annotation = owner.model_fields[part].annotation
            owner = next(iter(get_args(annotation)), annotation)
        prefix = key[: len(key) - len(path[-1])]
        hint = did_you_mean(path[-1], owner.model_fields, prefix)
        keys = ", ".join(owner.model_fields)
        return f"Unknown key {key}; " + (hint or f"the keys are {keys}.")
    reason = failure["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if failure["type"] == "value_error":
        return f"{key}: {reason}." if key else f"{reason}."
    return f"{key} {reason}, not {failure['input']!r}."
