"""The compiled functions of a model: made once, kept by the model, shared by all its runners."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.generation import decode
from kgpt.generation.decode import DecodeOutput, DecodeStep, Progress
from kgpt.generation.model_functions import ModelFunctions
from kgpt.generation.program import DecodeProgram, decode_programs, program_for
from kgpt.generation.sampling import Tensor, mask_by_grammar
from kgpt.generation.sequence import DecodeState, Request, SamplingParams
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import KVCache


class CompiledProgram:
    """One `DecodeProgram` of a model.

    Where conditions are cheap, `decode` is one compiled loop, which ends with its sequences.
    Where each is a round trip from the device to the host, it is steps repeated without one:
    a sequence that has ended generates nothing.
    """

    def __init__(
        self, program: DecodeProgram, model: Callable[[], GPT], step: DecodeStep, variables: Any
    ) -> None:
        self.program, self._model, self._step = program, model, step
        self._has_early_exit = not backend.branches_on_host()
        if self._has_early_exit:
            self._loop = backend.jit(self._decode_loop, variables, donated=(0, 2))
        else:
            self._loop = backend.jit_steps(self._decode_one, variables)
        self._verify = backend.jit(self._verify_draft, variables, donated=(0, 2))

    def decode(
        self, cache: KVCache, params: SamplingParams, state: DecodeState, num_steps: int
    ) -> tuple[KVCache, DecodeState, DecodeOutput]:
        """Up to `num_steps` tokens, at most `MAX_DECODE_STEPS`, in each running sequence."""
        output: DecodeOutput
        if self._has_early_exit:
            cache, state, output = self._loop(cache, params, state, np.int32(num_steps))
            return cache, state, output
        start = decode.start_progress(state, self.program)
        progress, cache = self._loop(params, start, cache, num_steps)
        return cache, progress.state, DecodeOutput(*progress.output)

    def verify_draft(
        self, cache: KVCache, params: SamplingParams, state: DecodeState, draft_tokens: Tensor
    ) -> tuple[KVCache, DecodeState, Tensor]:
        """See `decode.verify_draft`."""
        tokens: Tensor
        cache, state, tokens = self._verify(cache, params, state, draft_tokens)
        return cache, state, tokens

    def compilations(self) -> int:
        """How many programs have been compiled, or traced, so far."""
        return int(self._loop.compilations() + self._verify.compilations())

    def _decode_loop(
        self, cache: KVCache, params: SamplingParams, state: DecodeState, num_steps: Tensor
    ) -> tuple[KVCache, DecodeState, DecodeOutput]:
        params, state = SamplingParams(*params), DecodeState(*state)
        return decode.decode_n_tokens(self._step, cache, params, state, num_steps, self.program)

    def _decode_one(
        self, params: SamplingParams, progress: Progress, cache: KVCache
    ) -> tuple[Progress, KVCache]:
        return decode.decode_one_token(self._step, self.program, params, progress, cache)

    def _verify_draft(
        self, cache: KVCache, params: SamplingParams, state: DecodeState, draft_tokens: Tensor
    ) -> tuple[KVCache, DecodeState, Tensor]:
        params, state = SamplingParams(*params), DecodeState(*state)
        return decode.verify_draft(self._model(), cache, params, state, draft_tokens, self.program)


class CompiledFunctions(ModelFunctions):
    """Prefill, decode and search steps of one model; each compiles anew for each shape it meets.

    Caches and states that are passed in may be overwritten: use what is returned.
    """

    def __init__(self, model: GPT):
        super().__init__(model)
        variables, jit = model.variables, backend.jit
        self.decode_step = backend.fx_trace(self._decode_step)
        self.programs = {
            program: CompiledProgram(program, lambda: self.model, self.decode_step, variables)
            for program in decode_programs()
        }
        self.prefill = jit(self._prefill, variables, donated=(0,))
        self.next_logprobs = jit(self._next_logprobs, variables, donated=(0,))
        self.forward_hidden = jit(self._forward_hidden, variables, donated=(0,))
        self.reorder_cache = jit(_reorder_cache, donated=(0, 2))
        self.slice_row = jit(_slice_row)
        self.mask_by_grammar = jit(mask_by_grammar)
        self.update_row = jit(_update_row, donated=(0,))

    def program_for(self, requests: Iterable[Request]) -> CompiledProgram:
        """The program with the least work that does all that the requests ask for."""
        return self.programs[program_for(self.programs, requests)]

    def compilations(self) -> int:
        """How many programs have been compiled, or traced, so far."""
        functions = [*self.programs.values(), *vars(self).values()]
        return sum(f.compilations() for f in functions if hasattr(f, "compilations"))

    def _decode_step(
        self, token: Tensor, position: Tensor, count: Tensor, cache: KVCache
    ) -> tuple[Tensor, KVCache]:
        return self.model.decode_step(token, position, count, cache)

    def _prefill(self, cache: KVCache, token_ids: Tensor, start: Tensor, count: Tensor) -> KVCache:
        return decode.prefill(self.model, cache, token_ids, start, count)

    def _next_logprobs(
        self, cache: KVCache, params: SamplingParams, state: DecodeState
    ) -> tuple[KVCache, Tensor]:
        """Add each newest token to the cache; the processed log-probabilities after it (B, V)."""
        ones = ops.ones_like(state.token)
        logits, cache = self.decode_step(state.token, state.cache_position, ones, cache)
        logprobs = ops.log_softmax(logits, axis=-1)
        program = list(self.programs)[-1]
        return cache, decode.apply_logits_processors(logprobs, params, state, program)

    def _forward_hidden(
        self, cache: KVCache, token_ids: Tensor, start: Tensor, count: Tensor
    ) -> tuple[KVCache, Tensor, Tensor]:
        """The cache, all hidden states (B, T, D), and the probabilities after the last (B, V)."""
        hidden, cache = self.model.call_with_cache(token_ids, start, count, cache)
        last = ops.take_along_axis(hidden, (count - 1)[:, None, None], axis=1)[:, 0]
        return cache, hidden, ops.softmax(self.model.unembed(last), axis=-1)


def _reorder_cache(
    cache: KVCache, params: SamplingParams, state: DecodeState, sources: Tensor, tokens: Tensor
) -> tuple[KVCache, DecodeState]:
    """Row i continues what row `sources[i]` was, with the token `tokens[i]`."""
    cache = [tuple(ops.take(part, sources, axis=0) for part in entry) for entry in cache]
    state = DecodeState(*(ops.take(part, sources, axis=0) for part in state))
    return cache, decode.advance(params, state, tokens)


def _slice_row(tensors: Any, row: Tensor) -> Any:
    """One row of every tensor (B, ...), as (1, ...); a view where the backend has views."""
    return keras.tree.map_structure(lambda part: backend.slice_row(part, row), tensors)


def _update_row(tensors: Any, row: Tensor, values: Any) -> Any:
    """Tensors (B, ...) with one row replaced by `values` (1, ...)."""
    return keras.tree.map_structure(
        lambda part, value: backend.update_row(part, row, value), tensors, values
    )
