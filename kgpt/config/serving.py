"""The options of the server: `ServeConfig`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from kgpt.config.precision import DTYPE_HELP, KV_CACHE_HELP, DtypeOption, KVCacheDtype
from kgpt.config.section import Section


def _origin(value: str) -> str:
    """A value of the header `Origin`, without a trailing slash."""
    if value in ("*", "null"):
        return value
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+/?", value):
        raise ValueError(f"{value!r} is not an origin; write it like https://example.com")
    return value.removesuffix("/")


CorsOrigin = Annotated[str, AfterValidator(_origin)]


class ServeConfig(Section):
    """The options of `kgpt serve`."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; any but loopback requires API keys."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 chooses a free one.")
    uds: str | None = Field(
        None,
        description="Listen on this Unix socket, open to its owner only, instead of a port.",
    )
    api_key_file: str | None = Field(
        None, description="A file of API keys, one per line; clients must send one of them."
    )
    name: str | None = Field(None, description="Model name in the API.")
    alias: list[str] = Field(
        [], description="Another name of the model in the API; may be given repeatedly."
    )
    any_model_name: bool = Field(
        False, description="Answer requests for models of any name with this one."
    )
    cors_origin: list[CorsOrigin] = Field(
        [],
        description="Origin of web pages that may use the server, such as https://example.com; "
        "* is any. May be given repeatedly.",
    )
    strict: bool = Field(
        False, description="Refuse requests with fields that kgpt does not know, misspelt ones too."
    )
    adapter: list[str] = Field(
        [],
        description="A LoRA or DoRA adapter of the model, as NAME=FOLDER or its folder or run; "
        "requests name it as MODEL:NAME or NAME. May be given repeatedly.",
    )
    max_adapters: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Adapters that are loaded at once; if not given, as many as with --adapter, "
        "and 8 with --runtime-lora-updating.",
    )
    max_lora_rank: int | None = Field(
        None,
        ge=1,
        description="The largest rank of an adapter; if not given, that of the adapters, and at "
        "least 16 where more can be loaded.",
    )
    runtime_lora_updating: bool = Field(
        False,
        description="Load and unload adapters from folders of this machine by "
        "POST /v1/load_lora_adapter and /v1/unload_lora_adapter.",
    )
    dtype: DtypeOption = Field("auto", description=DTYPE_HELP)
    kv_cache_dtype: KVCacheDtype = Field("auto", description=KV_CACHE_HELP)
    memory_fraction: float | None = Field(
        None, gt=0, le=1, description="Fraction of the GPU's memory that the process may use."
    )
    max_num_seqs: int = Field(8, ge=1, le=1024, description="Sequences decoded at once.")
    max_queue: int = Field(64, ge=0, le=65536, description="Requests that can be queued.")
    max_context: int | None = Field(
        None, ge=2, description="Maximum tokens of prompt and completion; the model's if not given."
    )
    max_tokens: int = Field(4096, ge=1, description="Upper limit for the max_tokens of a request.")
    max_body: int = Field(
        1 << 20, ge=1024, le=1 << 30, description="Maximum size of a request body, in bytes."
    )
    timeout: float = Field(
        300.0, gt=0, description="Seconds after which a request ends with what was generated."
    )
    drain_timeout: float = Field(
        30.0, ge=0, description="Seconds for running requests to finish at shutdown."
    )
    bad_words: list[str] = Field(
        [], max_length=32, description="A phrase that is never generated; may be given repeatedly."
    )
    output_filter: list[str] = Field(
        [], description="An installed output filter; may be given repeatedly."
    )
