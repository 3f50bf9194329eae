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


# Derived from other fields when None is given.
DerivedInt = Annotated[int, Field(ge=1), WrapValidator(_none_or)]
DerivedBool = Annotated[bool, WrapValidator(_none_or)]
DERIVED: Any = None


class RopeScaling(Section):
    """RoPE scaling: extends the context beyond the length of pretraining."""

    type: Literal["linear", "dynamic", "llama3", "yarn"] = Field(description="The method.")
    factor: float = Field(ge=1, le=1e6, description="Scaling factor of the context length.")
    original_max_length: int | None = Field(
        None, ge=1, description="Context length of pretraining; max_length when not given."
    )
    low_freq_factor: float = Field(1.0, gt=0, description="llama3: full scaling below it.")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3: no scaling above it.")
    beta_fast: float = Field(32.0, gt=0, description="yarn: no scaling above this many turns.")
    beta_slow: float = Field(1.0, gt=0, description="yarn: full scaling below this many.")
    attention_factor: float | None = Field(
        None, gt=0, description="yarn: attention scale; 0.1 ln(factor) + 1 if not given."
    )
    truncate: bool = Field(True, description="yarn: round the range of dimensions outwards.")

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be below high_freq_factor")
        if self.beta_slow > self.beta_fast:
            raise ValueError("beta_slow must not be above beta_fast")
        return self


class ModelConfig(Section):
    """The architecture of a GPT.

    The defaults are GPT-2's; `rotary` + `rms` + `swiglu` without biases is Llama's.
    """

    vocab_size: int | None = Field(
        None, ge=2, description="Vocabulary size; the data set's when not given."
    )
    max_length: int = Field(256, ge=1, description="Maximum context length in tokens.")
    num_layers: int = Field(6, ge=1, description="Transformer blocks.")
    num_heads: int = Field(6, ge=1, description="Query heads of an attention layer.")
    num_kv_heads: DerivedInt = Field(
        DERIVED, description="Key/value heads; fewer than num_heads is grouped-query attention."
    )
    hidden_dim: int = Field(384, ge=1, description="Width of the residual stream.")
    head_dim: DerivedInt = Field(
        DERIVED, description="Size of an attention head; hidden_dim / num_heads when not given."
    )
    intermediate_dim: DerivedInt = Field(
        DERIVED, description="Width of the feed-forward layer; 4 x hidden_dim when not given."
    )
    position: Literal["learned", "rotary", "sinusoidal"] = Field(
        "learned", description="Position encoding."
    )
    rope_theta: float = Field(10000.0, gt=0, description="Base of the rotary frequencies.")
    rope_scaling: RopeScaling | None = Field(
        None, description="RoPE scaling for longer contexts; none when not given."
    )
    norm: Literal["layer", "rms"] = Field("layer", description="LayerNorm or RMSNorm.")
    norm_epsilon: float = Field(1e-5, gt=0, description="Epsilon added to the variance.")
    activation: Literal["gelu", "gelu_tanh", "swiglu"] = Field(
        "gelu_tanh", description="Activation of the feed-forward layer."
    )
    bias: bool = Field(True, description="Biases in linear layers and LayerNorm.")
    qkv_bias: DerivedBool = Field(
        DERIVED, description="Biases of query, key and value; as bias when not given."
    )
    mlp_bias: DerivedBool = Field(
        DERIVED, description="Biases of the feed-forward layer; as bias when not given."
    )
    qk_norm: bool = Field(False, description="RMSNorm on queries and keys of each head.")
    sliding_window: int | None = Field(
        None, ge=1, description="Attention window in tokens; the whole context when not given."
    )
    tie_embeddings: bool = Field(True, description="Share weights of token embedding and output.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on residuals and attention.")
    initializer_range: float = Field(
        0.02, gt=0, description="Standard deviation of the initial weights."
    )

    def _derived(self) -> dict[str, Any]:
        """The values of the derived fields that were not given."""
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
        """Serialize derived values as None, so that they follow changes of the others."""
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
        """Bytes of the KV cache for `tokens` tokens, with `number_size` bytes per number.

        Of 1 byte, int8, each head has a scale besides, in float32.
        """
        head = self.head_dim * number_size + (4 if number_size == 1 else 0)
        return 2 * self.num_layers * self.num_kv_heads * tokens * head

    def flops_per_token(self, length: int | None = None) -> int:
        """Floating-point operations to train on one token: forward and backward.

        6 per weight that takes part in a matmul, plus the attention matmuls
        (PaLM, Appendix B, https://arxiv.org/abs/2204.02311). Position and, unless tied to the
        output, token embeddings are lookups and are not counted.
        """
        length = length or self.max_length
        lookups = self.max_length * self.hidden_dim * (self.position == "learned")
        lookups += self.known_vocab_size * self.hidden_dim * (not self.tie_embeddings)
        attention = 12 * self.num_layers * self.num_heads * self.head_dim * length
        return 6 * (self.num_parameters() - lookups) + attention

    @property
    def known_vocab_size(self) -> int:
        """The vocabulary size; a `UsageError` if it is not set."""
        if self.vocab_size is None:
            raise UsageError("model.vocab_size is not known; give it, or give a data set.")
        return self.vocab_size
