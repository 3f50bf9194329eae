"""POST /v1/classify, as in vLLM's API, which calls it /classify."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from kgpt.serving.body import Body
from kgpt.serving.compatibility import Neutral
from kgpt.serving.embeddings import encode_input
from kgpt.serving.errors import json_response
from kgpt.serving.forward import run_forward
from kgpt.serving.prompts import Prompts, as_list
from kgpt.serving.routes import StateDep

if TYPE_CHECKING:
    from kgpt.generation.text_classifier import TextClassifier

router = APIRouter()


class ClassificationRequest(Body):
    """POST /v1/classify."""

    endpoint: ClassVar[str] = "POST /v1/classify"
    unsupported: ClassVar[Mapping[str, Neutral]] = {
        "activation": (True,),
        "add_special_tokens": (True,),
        "softmax": (True,),
        "truncate_prompt_tokens": (),
        "use_activation": (True,),
    }
    ignored: ClassVar[frozenset[str]] = frozenset(("user", "priority", "request_id"))

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    input: Prompts = Field(
        description="A text, several texts, token ids, or several lists of them."
    )


@router.post("/v1/classify", summary="Labels of texts")
@router.post("/classify", summary="Labels of texts, by vLLM's path", include_in_schema=False)
async def classify(body: ClassificationRequest, request: Request, state: StateDep) -> Response:
    """Of each text the most probable `label` and `probs`, one for each label of the model.

    `labels` names those: it is what vLLM's response has not. Where a text may have several labels,
    each probability is by itself, and `label` is the first of those of a half or more.
    """
    classifier = state.classifier
    state.adapter_for(body.model)
    prompts = [await encode_input(state, prompt) for prompt in as_list(body.input)]
    found = await run_forward(request, state, prompts, "classification")
    tokens = sum(map(len, prompts))
    return json_response(
        {
            "id": f"classify-{secrets.token_hex(16)}",
            "object": "list",
            "created": int(time.time()),
            "model": state.name,
            "data": [_entry(classifier, index, row) for index, row in enumerate(found)],
            "labels": list(classifier.labels),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
    )


def _entry(classifier: TextClassifier, index: int, probabilities: np.ndarray) -> dict[str, Any]:
    chosen = classifier.result(probabilities).labels
    return {
        "index": index,
        "label": chosen[0] if chosen else None,
        "probs": [float(p) for p in probabilities],
        "num_classes": len(classifier.labels),
    }
