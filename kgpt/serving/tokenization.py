"""Text to token ids and back over HTTP: kgpt's endpoints under /v1, and vLLM's without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.responses import Response

from kgpt.serving.body import Body, max_items
from kgpt.serving.compatibility import Neutral
from kgpt.serving.errors import json_response
from kgpt.serving.prompts import TokenIds
from kgpt.serving.routes import StateDep
from kgpt.serving.schemas import Messages
from kgpt.serving.state import ServerState

MAX_CHARACTERS = 1 << 18
MAX_IDS = 1 << 17

router = APIRouter()


def rename(values: dict[str, Any], other: str, name: str) -> dict[str, Any]:
    """`values` with the field `other` under its other name; both at once are refused."""
    if other in values and name in values:
        raise ValueError(f"{other} is another name of {name}; send one of them")
    return {name if key == other else key: value for key, value in values.items()}


class TokenizeRequest(Body):
    """POST /v1/tokenize: a text or a conversation."""

    endpoint: ClassVar[str] = "POST /v1/tokenize"

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    text: str | None = Field(
        None, max_length=MAX_CHARACTERS, description="Special tokens in it are plain text."
    )
    messages: Messages | None = Field(None, description="A conversation, up to its next answer.")

    @classmethod
    def translate(cls, values: dict[str, Any]) -> dict[str, Any]:
        return rename(values, "prompt", "text")

    @model_validator(mode="after")
    def _check_exactly_one(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self


class DetokenizeRequest(Body):
    """POST /v1/detokenize."""

    endpoint: ClassVar[str] = "POST /v1/detokenize"

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    ids: Annotated[TokenIds, max_items(MAX_IDS)] = Field(description="Token ids; also as tokens.")

    @classmethod
    def translate(cls, values: dict[str, Any]) -> dict[str, Any]:
        return rename(values, "tokens", "ids")


class VllmTokenizeRequest(Body):
    """POST /tokenize, as vLLM has it."""

    endpoint: ClassVar[str] = "POST /tokenize"
    unsupported: ClassVar[Mapping[str, Neutral]] = {
        "chat_template": (),
        "continue_final_message": (False,),
        "tools": ([],),
    }
    ignored: ClassVar[frozenset[str]] = frozenset(("chat_template_kwargs", "mm_processor_kwargs"))

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    prompt: str | None = Field(
        None, max_length=MAX_CHARACTERS, description="Special tokens in it are recognised."
    )
    messages: Messages | None = Field(None, description="A conversation, up to its next answer.")
    add_special_tokens: bool = Field(
        True, description="Put before a prompt what the model expects there, such as <s>."
    )
    add_generation_prompt: bool = Field(
        True, description="Of messages: with the beginning of the assistant's answer."
    )
    return_token_strs: bool = Field(False, description="Return the text of each token too.")

    @model_validator(mode="after")
    def _check_exactly_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.messages is not None and not self.add_generation_prompt:
            raise ValueError("add_generation_prompt: false is not supported; leave it out")
        return self


class VllmDetokenizeRequest(Body):
    """POST /detokenize, as vLLM has it."""

    endpoint: ClassVar[str] = "POST /detokenize"

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    tokens: Annotated[TokenIds, max_items(MAX_IDS)] = Field(description="Token ids.")


@router.post("/v1/tokenize", summary="Tokenize text or messages")
async def tokenize(body: TokenizeRequest, state: StateDep) -> Response:
    """Token ids of a text, or of a conversation up to where the answer starts."""
    adapter = state.adapter_for(body.model)
    if body.text is not None:
        ids = await state.run_with_tokenizer(state.served.tokenizer.encode, body.text)
    else:
        messages = [message.as_dict() for message in body.messages or []]
        ids, _ = await state.encode_chat(messages, adapter=adapter)
    tokens = await _token_strings(state, ids)
    return json_response({"ids": ids, "tokens": tokens, "count": len(ids)})


@router.post("/v1/detokenize", summary="Text of token ids")
async def detokenize(body: DetokenizeRequest, state: StateDep) -> Response:
    """`text`, special tokens included; `prompt` is the same under vLLM's name."""
    state.adapter_for(body.model)
    text = await _decode(state, body.ids)
    return json_response({"text": text, "prompt": text})


@router.post("/tokenize", summary="Tokenize, as vLLM does")
async def vllm_tokenize(body: VllmTokenizeRequest, state: StateDep) -> Response:
    """`tokens` are ids; special tokens in the text are recognised."""
    adapter = state.adapter_for(body.model)
    tokenizer = state.served.tokenizer
    if body.prompt is not None:
        ids = await state.run_with_tokenizer(tokenizer.encode, body.prompt, True)
        ids = [*tokenizer.bos_ids, *ids] if body.add_special_tokens else ids
    else:
        messages = [message.as_dict() for message in body.messages or []]
        ids, _ = await state.encode_chat(messages, adapter=adapter)
    strings = await _token_strings(state, ids) if body.return_token_strs else None
    length = {"count": len(ids), "max_model_len": state.served.max_context}
    return json_response(length | {"tokens": ids, "token_strs": strings})


@router.post("/detokenize", summary="Text of token ids, as vLLM gives it")
async def vllm_detokenize(body: VllmDetokenizeRequest, state: StateDep) -> Response:
    """The text, as `prompt`, special tokens included."""
    state.adapter_for(body.model)
    return json_response({"prompt": await _decode(state, body.tokens)})


@router.get("/tokenizer_info", summary="The tokenizer's configuration, as in vLLM")
async def tokenizer_info(state: StateDep) -> Response:
    """What tokenizer_config.json says: special tokens and chat template."""
    generator = state.served
    names: dict[str, Any] = {"bos_token": None, "eos_token": None}
    return json_response(names | generator.tokenizer.tokenizer_config(generator.max_context))


async def _decode(state: ServerState, ids: list[int]) -> str:
    state.check_token_ids(ids)
    text: str = await state.run_with_tokenizer(state.served.tokenizer.decode, ids)
    return text


async def _token_strings(state: ServerState, ids: list[int]) -> list[str]:
    decode = state.served.tokenizer.decode
    strings: list[str] = await state.run_with_tokenizer(lambda: [decode([i]) for i in ids])
    return strings
