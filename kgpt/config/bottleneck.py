"""The options of bottleneck adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kgpt.config.section import Section


class BottleneckConfig(Section):
    """Bottleneck adapters (Houlsby et al., 2019): ``h + scaling * up(activation(down(h)))``.

    h is the output of attention or of the MLP, before it is added to the residual stream;
    everything else is frozen. ``down`` (size, D) and ``up`` (D, size) have no biases.
    """

    size: int = Field(64, ge=1, description="Width of the bottleneck of each adapter.")
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby",
        description="Where each block has adapters. houlsby: after attention and after the MLP; "
        "pfeiffer: after the MLP alone (Pfeiffer et al., 2020).",
    )
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field(
        "relu", description="The non-linearity of the bottleneck."
    )
    scaling: float = Field(1.0, gt=0, description="Factor on the output of each adapter.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout on the input of the adapters while training."
    )
