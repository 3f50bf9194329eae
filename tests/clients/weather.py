"""The answer that clients ask for as structured output."""

from typing import Literal

import pydantic


class Weather(pydantic.BaseModel):
    """What the weather is like."""

    city: Literal["Oslo", "Rome"]
    is_warm: bool
