"""`echo` of text completions: the prompt before its completion, with its log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from kgpt.generation.detokenize import token_text_and_bytes
from kgpt.protocol import GenerationChunk, TokenInfo, TopLogprob
from kgpt.serving.formats import TextCompletionFormat, num_characters, text_logprobs
from kgpt.serving.forward import run_forward
from kgpt.serving.prompts import as_list
from kgpt.serving.request_stream import check_logprobs
from kgpt.serving.schemas import CompletionRequest
from kgpt.serving.state import ServerState
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter
    from kgpt.generation.forward_job import PromptLogprobs


@dataclass(frozen=True)
class EchoedPrompt:
    """A prompt as it is returned: its text, and the four lists of log-probabilities if wanted."""

    text: str
    logprobs: dict[str, Any] | None = None


class EchoFormat(TextCompletionFormat):
    """`text_completion` whose texts begin with their prompts.

    Args:
        logprobs: the request wants them.
        prompts: in the order of the request, each with `n` completions.
    """

    def __init__(self, logprobs: bool, prompts: Sequence[EchoedPrompt], n: int):
        super().__init__(logprobs)
        self._prompts = [prompt for prompt in prompts for _ in range(n)]
        for index, prompt in enumerate(self._prompts):
            self._text_offset[index] = len(prompt.text)

    def first_choice(self, index: int) -> dict[str, Any] | None:
        prompt = self._prompts[index]
        choice = {"index": index, "text": prompt.text, "logprobs": prompt.logprobs}
        return choice | {"finish_reason": None, "stop_reason": None}

    def choice(self, completion: GenerationChunk) -> dict[str, Any]:
        choice, prompt = self.delta(completion), self._prompts[completion.index]
        choice["text"] = prompt.text + choice["text"]
        if prompt.logprobs is not None:
            choice["logprobs"] = {
                name: prompt.logprobs[name] + values for name, values in choice["logprobs"].items()
            }
        return choice


async def echoed_prompts(
    body: CompletionRequest,
    request: Request,
    state: ServerState,
    prompts: Sequence[Sequence[int]],
    adapter: LoadedAdapter | None = None,
) -> list[EchoedPrompt]:
    """The prompts of a request, given as token ids, as they are returned."""
    tokenizer, given = state.generator.tokenizer, as_list(body.prompt)
    texts = [
        text
        if isinstance(text, str) and not body.truncate
        else await state.run_with_tokenizer(tokenizer.decode, ids)
        for text, ids in zip(given, prompts, strict=True)
    ]
    if body.logprobs is None:
        return [EchoedPrompt(text) for text in texts]
    check_logprobs(state, body.logprobs)
    asked = list(filter(None, prompts))
    top_logprobs = body.logprobs
    scored = iter(await run_forward(request, state, asked, "logprobs", top_logprobs, adapter))

    def make(text: str, ids: Sequence[int]) -> EchoedPrompt:
        if not ids:
            return EchoedPrompt(text, text_logprobs([], []))
        return EchoedPrompt(text, echoed_logprobs(tokenizer, text, ids, next(scored)))

    pairs = zip(texts, prompts, strict=True)
    return [await state.run_with_tokenizer(make, text, ids) for text, ids in pairs]


def echoed_logprobs(
    tokenizer: Tokenizer, text: str, ids: Sequence[int], scored: PromptLogprobs
) -> dict[str, Any]:
    """The log-probabilities of a prompt's tokens; null for the first, which nothing precedes."""
    top = [(), *zip(scored.top_ids.tolist(), scored.top_logprobs.tolist(), strict=True)][:-1]
    logprobs = [0.0, *scored.logprobs.tolist()]
    tokens = [
        TokenInfo(
            *_candidate(tokenizer, token, logprob),
            top_logprobs=tuple(
                TopLogprob(*_candidate(tokenizer, *pair)) for pair in zip(*best, strict=True)
            ),
        )
        for token, logprob, best in zip(ids, logprobs, top, strict=True)
    ]
    lists = text_logprobs(tokens, _text_offsets(tokens, text))
    lists["token_logprobs"][0] = lists["top_logprobs"][0] = lists["content"][0]["logprob"] = None
    return lists


def _candidate(tokenizer: Tokenizer, token: int, logprob: float) -> tuple[int, str, bytes, float]:
    return (token, *token_text_and_bytes(tokenizer, token), logprob)


def _text_offsets(tokens: Sequence[TokenInfo], text: str) -> list[int]:
    """Where each token begins in the text of the prompt, counted from its end.

    At its beginning there may be tokens, or a space, that the text does not have.
    """
    lengths = [num_characters(token) for token in tokens]
    extra = sum(lengths) - len(text)
    starts = [0, *accumulate(lengths)][:-1]
    return [max(0, start - extra) for start in starts]
