"""Objects and events of the Responses API: a response has one message with one text."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from typing import Any

from kgpt.config import SamplingConfig
from kgpt.protocol import GenerationChunk, Usage
from kgpt.serving.errors import APIError
from kgpt.serving.formats import token_entry
from kgpt.serving.responses_schema import ResponsesRequest

INCOMPLETE = {
    "length": "max_output_tokens",
    "deadline": "max_output_tokens",
    "content_filter": "content_filter",
}  # reasons by finish reason


class ResponseObject:
    """The response to one request, as it is before, while and after its text is generated.

    Args:
        body: the request. model: the served model's name.
        sampling: the options in effect.
    """

    def __init__(self, body: ResponsesRequest, model: str, sampling: SamplingConfig):
        self.logprobs = body.num_logprobs is not None
        self.id, self.item_id = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._fixed = {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": sampling.max_tokens,
            "metadata": body.metadata or {},
            "model": model,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": _text_format(body)},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": body.truncation or "disabled",
        }

    def in_progress(self) -> dict[str, Any]:
        return self._object("in_progress", [])

    def completed(self, completion: GenerationChunk, usage: Usage) -> dict[str, Any]:
        """The whole response; "incomplete" if its text was cut off."""
        reason = INCOMPLETE.get(str(completion.finish_reason))
        status = "incomplete" if reason else "completed"
        changes = {"usage": usage_object(usage)}
        if reason:
            changes["incomplete_details"] = {"reason": reason}
        return self._object(status, [self.message(status, self.text_part(completion))]) | changes

    def _object(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        outcome = {"status": status, "error": None, "incomplete_details": None, "usage": None}
        return self._fixed | outcome | {"output": output}

    def message(self, status: str, *content: dict[str, Any]) -> dict[str, Any]:
        """The output item, with the parts that its content has so far."""
        return {
            "id": self.item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": list(content),
        }

    def text_part(self, completion: GenerationChunk) -> dict[str, Any]:
        logprobs = self.token_logprobs(completion)
        return {
            "type": "output_text", "text": completion.text, "annotations": [], "logprobs": logprobs,
        }  # fmt: skip

    def token_logprobs(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        return [token_entry(token) for token in chunk.tokens] if self.logprobs else []

    # -- events ---------------------------------------------------------------------------------

    def opening(self) -> str:
        """The events before there is any text."""
        response = self.in_progress()
        empty = self.text_part(GenerationChunk())
        return "".join(
            (
                self.event("response.created", response=response),
                self.event("response.in_progress", response=response),
                self._item_event("added", self.message("in_progress")),
                self._text_event("content_part.added", part=empty),
            )
        )

    def delta(self, chunk: GenerationChunk) -> str:
        """The event of a chunk; empty if it has no text."""
        if not (chunk.text or (self.logprobs and chunk.tokens)):
            return ""
        logprobs = self.token_logprobs(chunk)
        return self._text_event("output_text.delta", delta=chunk.text, logprobs=logprobs)

    def closing(self, completion: GenerationChunk, usage: Usage) -> str:
        """The events after the text of the merged `completion`."""
        part, response = self.text_part(completion), self.completed(completion, usage)
        return "".join(
            (
                self._text_event(
                    "output_text.done", text=completion.text, logprobs=part["logprobs"]
                ),
                self._text_event("content_part.done", part=part),
                self._item_event("done", response["output"][0]),
                self.event(f"response.{response['status']}", response=response),
            )
        )

    def failure(self, error: APIError) -> str:
        """The event that ends a stream in place of `closing`."""
        details = {"error": {"code": "server_error", "message": error.message}}
        return self.event("response.failed", response=self._object("failed", []) | details)

    def event(self, name: str, **content: Any) -> str:
        """One server-sent event, with the next sequence number."""
        data = {"type": name, "sequence_number": next(self._numbers), **content}
        return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"

    def _item_event(self, what: str, item: dict[str, Any]) -> str:
        return self.event(f"response.output_item.{what}", output_index=0, item=item)

    def _text_event(self, what: str, **content: Any) -> str:
        place = {"item_id": self.item_id, "output_index": 0, "content_index": 0}
        return self.event(f"response.{what}", **place, **content)


def usage_object(usage: Usage) -> dict[str, Any]:
    """`usage` of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _text_format(body: ResponsesRequest) -> dict[str, Any]:
    if body.text is None or body.text.format is None:
        return {"type": "text"}
    return body.text.format.model_dump(by_alias=True, exclude_none=True)
