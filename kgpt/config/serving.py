"""What a server is told when it starts: `ServeConfig`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kgpt.config.section import Section

# What a model is held in while it writes; int8 is for its matrices, the rest is float32 then.
InferenceDtype = Literal["float32", "bfloat16", "float16", "int8"]


class ServeConfig(Section):
    """The options of `kgpt serve`."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; other than loopback it needs API keys."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    uds: str | None = Field(
        None,
        description="Listen on this Unix socket in place of a port; its owner alone may use it.",
    )
    api_key_file: str | None = Field(
        None, description="A file of API keys, one a line; clients must send one of them."
    )
    name: str | None = Field(None, description="What the model is called in the API.")
    dtype: InferenceDtype = Field(
        "float32",
        description="What weights are held in and computed with; int8 holds matrices in 8 bits.",
    )
    max_num_seqs: int = Field(8, ge=1, le=1024, description="Texts written at the same time.")
    max_queue: int = Field(64, ge=0, le=65536, description="Texts that may wait for a slot.")
    max_context: int | None = Field(
        None, ge=2, description="Longest prompt and answer together; the model's own if not given."
    )
    max_tokens: int = Field(
        4096, ge=1, description="No answer is longer, whatever a request asks for."
    )
    max_body: int = Field(
        1 << 20, ge=1024, le=1 << 30, description="Largest request body, in bytes."
    )
    timeout: float = Field(
        300.0, gt=0, description="Seconds after which an answer ends as far as it is written."
    )
    drain_timeout: float = Field(
        30.0, ge=0, description="Seconds that running answers get when the server is told to end."
    )
    bad_words: list[str] = Field(
        [], max_length=32, description="A phrase that no answer contains; may be given repeatedly."
    )
    output_filter: list[str] = Field(
        [], description="An installed filter that every answer passes; may be given repeatedly."
    )
