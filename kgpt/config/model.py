"""The architecture of a GPT: `ModelConfig`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WrapValidator, model_serializer, model_validator

from kgpt.config.parameters import parameter_shapes
from kgpt.config.section import Section
from kgpt.errors import UsageError


def _none_or(value: Any, validate: Callable[[Any], Any]) -> Any:
    return None if value is None else validate(value)


# Values that are derived from the others when they are not given (None).
DerivedInt = Annotated[int, Field(ge=1), WrapValidator(_none_or)]
DerivedBool = Annotated[bool, WrapValidator(_none_or)]
DERIVED: Any = None


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
    qkv_bias: DerivedBool = Field(
        DERIVED, description="Biases of query, key and value; the same as bias when not given."
    )
    mlp_bias: DerivedBool = Field(
        DERIVED, description="Biases of the feed-forward layer; the same as bias when not given."
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

    def _derived(self) -> dict[str, Any]:
        """What each field that was not given follows from."""
        return {
            "num_kv_heads": self.num_heads,
            "head_dim": self.hidden_dim // self.num_heads,
            "intermediate_dim": 4 * self.hidden_dim,
            "qkv_bias": self.bias,
            "mlp_bias": self.bias,
        }

    @model_validator(mode="after")
    def _derive(self) -> Self:
        for name, value in self._derived().items():
            if name not in self.model_fields_set or getattr(self, name) is None:
                self.__dict__[name] = value  # an assignment would validate again
                self.model_fields_set.discard(name)
        if "head_dim" not in self.model_fields_set and self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_dim}")
        if self.rope_scaling is not None and self.rope_scaling.original_max_length is None:
            self.rope_scaling.original_max_length = self.max_length
        return self

    @model_serializer(mode="wrap")
    def _leave_derived_out(self, serialize: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Derived values are None again, so that they follow when the others change."""
        values = serialize(self)
        for name in self._derived():
            if name in values and name not in self.model_fields_set:
                values[name] = None
        return values

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A validated copy with the changes of `update`; derived values follow them."""
        if not update:
            return super().model_copy(deep=deep)
        return type(self).model_validate(self.model_dump() | dict(update))

    def num_parameters(self) -> int:
        """Number of trainable weights."""
        return sum(math.prod(shape) for _, shape in parameter_shapes(self))

    def cache_bytes(self, tokens: int, number_size: int = 4) -> int:
        """Bytes of the keys and values of `tokens` tokens, at `number_size` bytes a number."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * tokens * number_size

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
