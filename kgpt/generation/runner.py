"""Model runner: the KV cache and per-slot state of sequences that are decoded together.

A slot is added to, prefilled chunk by chunk, decoded, released, and keeps its cache for a later
prompt with the same prefix. Programs are compiled once per shape: prefill of one slot or of all,
and up to `MAX_DECODE_STEPS` decode steps in every running slot. Sampling parameters are tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.generation.compiled import CompiledFunctions, CompiledProgram
from kgpt.generation.context_shift import tokens_kept
from kgpt.generation.decode import MAX_DECODE_STEPS, DecodeOutput
from kgpt.generation.generated_token import GeneratedToken, plain_token, token_with_logprobs
from kgpt.generation.sequence import (
    NO_LIMIT,
    DecodeState,
    Request,
    SamplingParams,
    idle_sequences,
    params_of_request,
    state_of_request,
)
from kgpt.generation.shapes import (
    MIN_CACHE_LEN,
    PREFILL_CHUNK_SIZES,
    prefill_chunk_size,
    shape_buckets,
)
from kgpt.generation.slot import Sequence, token_bitmask
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import KVCache, adapter_entry, resize_cache


class ModelRunner:
    """Runs a model on a batch of slots.

    Args:
        model: its weights may change between calls.
        num_slots: sequences decoded together, to begin with.
        max_context: tokens kept of each sequence; the model's `max_length` when not given.
        batched_prefill: prefill many slots in one call, which compiles a program for each number
            of slots.

    `add` a request to a slot, call `prefill` until it is decoding, then `decode` until it ends.
    """

    def __init__(
        self,
        model: GPT,
        num_slots: int = 1,
        max_context: int | None = None,
        batched_prefill: bool = True,
    ):
        self.model, self.batched_prefill = model, batched_prefill
        self.config = model.config
        self.max_context = min(max_context or model.max_length, model.max_length)
        has_prefix = model.num_virtual_tokens > 0  # which a cache that rolled would lose
        self.has_rolling_cache = self.config.position == "rotary" and not has_prefix
        self.position_limit = self.max_context if has_prefix else self.config.max_length
        self.compiled = CompiledFunctions.of(model)
        self.sequences = [Sequence() for _ in range(num_slots)]
        self.cache_len = min(MIN_CACHE_LEN, self.max_context)
        self.cache: KVCache = model.new_cache(num_slots, self.cache_len)
        idle = idle_sequences(num_slots, self.config.known_vocab_size)
        self.params: SamplingParams
        self.state: DecodeState
        self.params, self.state = backend.to_device(idle)
        self._uses = itertools.count(1)

    # -- slots --------------------------------------------------------------------------------

    def add(self, slot: int, request: Request) -> None:
        """Put a request into a slot, keeping what its cache shares with the prompt."""
        request.check(self.config.known_vocab_size)
        token_ids = list(request.prompt_ids)
        new = Sequence(request, token_ids, last_used=next(self._uses))
        if len(token_ids) > self.max_context:
            new.cache_offset, new.context_shifted = self._offset_after_shift(new), True
        else:
            new.num_computed_tokens = self.cached_prefix_length(slot, request)
            new.num_cached_tokens = new.num_computed_tokens
        self._halt(slot)
        self.sequences[slot] = new
        if self.model.max_adapters:
            entry = adapter_entry([request.adapter_id])
            self.cache[-1] = self.compiled.update_row(self.cache[-1], np.int32(slot), entry)

    def cached_prefix_length(self, slot: int, request: Request) -> int:
        """How many leading tokens, all but the last at most, the slot's cache already contains.

        None that another adapter computed.
        """
        old, prompt_ids = self.sequences[slot], list(request.prompt_ids)
        is_overwritten = old.cache_offset or old.num_computed_tokens > self.max_context
        if is_overwritten or old.request.adapter is not request.adapter:
            return 0
        return common_prefix(old.token_ids[: old.num_computed_tokens], prompt_ids[:-1])

    def release(self, slot: int) -> None:
        """Stop decoding a slot. Its cache stays for a prompt with the same prefix."""
        self._halt(slot)
        self.sequences[slot].is_decoding = False
        self.sequences[slot].last_used = next(self._uses)

    def rewind(self, slot: int, token_ids: list[int]) -> None:
        """Continue from other tokens after the same prompt, keeping the cache they share."""
        sequence = self.sequences[slot]
        shared = common_prefix(sequence.token_ids, token_ids)
        sequence.num_computed_tokens = min(sequence.num_computed_tokens, shared, len(token_ids) - 1)
        sequence.token_ids, sequence.is_decoding = list(token_ids), False
        sequence.finish_reason = None

    def resize(self, sources: Collection[int], cache_len: int) -> None:
        """Rearrange the slots: slot i takes the content of `sources[i]`; -1 makes an idle one."""
        cache_len = min(cache_len, self.max_context)
        index = backend.to_device(np.maximum(np.array(list(sources), "int32"), 0))
        slots = cache_len + self.model.num_virtual_tokens
        cache = keras.tree.map_structure(
            lambda x: resize_cache(ops.take(x, index, axis=0), slots), self.cache
        )  # without memory for it, nothing has changed
        self.params, self.state = keras.tree.map_structure(
            lambda x: ops.take(x, index, axis=0), (self.params, self.state)
        )
        self.cache = cache
        self.sequences = [self.sequences[i] if i >= 0 else Sequence() for i in sources]
        self.cache_len = cache_len
        if idle := [slot for slot, source in enumerate(sources) if source < 0]:
            self._set_not_running(idle)

    # -- prefill ------------------------------------------------------------------------------

    def prefill(self, slots: Collection[int]) -> None:
        """Compute one chunk of each slot's prompt; a slot whose prompt is done starts decoding."""
        self.ensure_cache_capacity(max((self._needed(slot, 0) for slot in slots), default=0))
        pending = [slot for slot in slots if self.sequences[slot].num_pending_tokens > 0]
        if self.batched_prefill and 2 * len(pending) > len(self.sequences) > 1:
            self._prefill_batch(pending)
        else:
            for slot in pending:
                self._prefill_one(slot)
        for slot in slots:
            if self.sequences[slot].num_pending_tokens == 0:
                self._start_decoding(slot)

    def _prefill_one(self, slot: int) -> None:
        sequence = self.sequences[slot]
        chunk = self._next_chunk(sequence)
        padded = np.zeros((1, prefill_chunk_size(len(chunk), self.cache_len)), "int32")
        padded[0, : len(chunk)] = chunk
        start, count = np.array([[sequence.num_computed_tokens], [len(chunk)]], "int32")
        one = self.compiled.slice_row(self.cache, np.int32(slot))
        one = self.compiled.prefill(one, padded, start, count)
        self.cache = self.compiled.update_row(self.cache, np.int32(slot), one)
        sequence.num_computed_tokens += len(chunk)

    def _prefill_batch(self, slots: list[int]) -> None:
        chunks = {slot: self._next_chunk(self.sequences[slot]) for slot in slots}
        size = prefill_chunk_size(max(map(len, chunks.values())), self.cache_len)
        padded = np.zeros((len(self.sequences), size), "int32")
        start = np.zeros(len(self.sequences), "int32")
        count = np.zeros(len(self.sequences), "int32")
        for slot, chunk in chunks.items():
            padded[slot, : len(chunk)] = chunk
            start[slot], count[slot] = self.sequences[slot].num_computed_tokens, len(chunk)
            self.sequences[slot].num_computed_tokens += len(chunk)
        self.cache = self.compiled.prefill(self.cache, padded, start, count)

    def _next_chunk(self, sequence: Sequence) -> list[int]:
        begin = sequence.cache_offset + sequence.num_computed_tokens
        size = min(sequence.num_pending_tokens, PREFILL_CHUNK_SIZES[0], self.cache_len)
        return sequence.token_ids[begin : begin + size]

    def _start_decoding(self, slot: int) -> None:
        sequence, vocab_size = self.sequences[slot], self.config.known_vocab_size
        request, output_ids = sequence.request, sequence.output_ids
        max_position = NO_LIMIT if self.has_rolling_cache else self.position_limit
        params = params_of_request(request, vocab_size, max_position)
        state = state_of_request(request, sequence.cache_position, vocab_size, output_ids)
        if sequence.remaining_tokens <= 0:
            sequence.finish_reason = "length"
        sequence.follow_grammar([])
        self.params = self.compiled.update_row(self.params, np.int32(slot), params)
        self.state = self.compiled.update_row(self.state, np.int32(slot), state)
        sequence.is_decoding = True
        if sequence.finish_reason is not None:
            self._set_not_running([slot])

    # -- decode -------------------------------------------------------------------------------

    def decoding_slots(self) -> list[int]:
        """The slots that `decode` generates tokens in."""
        return [
            slot
            for slot, sequence in enumerate(self.sequences)
            if sequence.is_decoding and sequence.finish_reason is None
        ]

    def decode(self, num_steps: int = MAX_DECODE_STEPS) -> dict[int, list[GeneratedToken]]:
        """Generate up to `num_steps` (at most `MAX_DECODE_STEPS`) tokens in each decoding slot.

        One where a sequence follows a grammar, which must see each token before the next.
        """
        active = self.decoding_slots()
        if not active:
            return {}
        constrained = any(self.sequences[slot].matcher for slot in active)
        num_steps = min(
            num_steps,
            1 if constrained else MAX_DECODE_STEPS,
            max(self.sequences[slot].remaining_tokens for slot in active),
        )
        self.ensure_cache_capacity(max(self._needed(slot, num_steps) for slot in active))
        # A sequence alone does not pay for the width of the batch.
        alone = len(active) == 1 < len(self.sequences)
        program = self.compiled.program_for(self.sequences[slot].request for slot in active)
        rows = active if alone else range(len(self.sequences))
        bitmask = self._token_bitmask(rows) if constrained else None
        if alone:
            output = self._decode_one(program, active[0], num_steps, bitmask)
        else:
            output = self._decode_batch(program, num_steps, bitmask)
        row_of = {slot: 0 if alone else slot for slot in active}
        wants_logprobs = {slot for slot in active if self.sequences[slot].request.return_logprobs}
        if wants_logprobs:
            output = backend.to_host(output)
        else:
            output = output._replace(tokens=backend.to_host(output.tokens))
        generated = {}
        for slot, row in row_of.items():
            make = token_with_logprobs if slot in wants_logprobs else plain_token
            count = int((output.tokens[row] >= 0).sum())
            generated[slot] = [make(output, row, step) for step in range(count)]
            self._append(slot, [token.id for token in generated[slot]])
        return generated

    def warm_up_decode(self) -> None:
        """Run every decode program in all slots; what that leaves in them is of no use."""
        for program in self.compiled.programs.values():
            for num_steps in (MAX_DECODE_STEPS, 1):
                self._decode_batch(program, num_steps)
        self._masked(self.params, self._token_bitmask(range(len(self.sequences))))

    def _token_bitmask(self, slots: Collection[int]) -> np.ndarray:
        return token_bitmask([self.sequences[i] for i in slots], self.config.known_vocab_size)

    def _masked(self, params: SamplingParams, bitmask: np.ndarray | None) -> SamplingParams:
        """`params` of which only the tokens in `bitmask` (B, W) are drawn."""
        if bitmask is None:
            return params
        return params._replace(logit_bias=self.compiled.mask_by_grammar(params.logit_bias, bitmask))

    def _decode_batch(
        self, program: CompiledProgram, num_steps: int, bitmask: np.ndarray | None = None
    ) -> DecodeOutput:
        params = self._masked(self.params, bitmask)
        self.cache, self.state, output = program.decode(self.cache, params, self.state, num_steps)
        return output

    def _decode_one(
        self, program: CompiledProgram, slot: int, num_steps: int, bitmask: np.ndarray | None
    ) -> DecodeOutput:
        row = np.int32(slot)
        cache, params, state = self.compiled.slice_row((self.cache, self.params, self.state), row)
        params = self._masked(SamplingParams(*params), bitmask)
        cache, state, output = program.decode(cache, params, state, num_steps)
        self.cache = self.compiled.update_row(self.cache, row, cache)
        self.state = self.compiled.update_row(self.state, row, state)
        return output

    def verify_draft(self, draft_tokens: list[int], length: int) -> list[GeneratedToken]:
        """Generate, in the only slot, the draft's tokens that the model accepts and one more.

        Args:
            draft_tokens: proposed next tokens, at most `length`; they are padded to it.
        """
        self.ensure_cache_capacity(self._needed(0, length + 1))
        padded = np.full((1, length), -1, "int32")
        padded[0, : len(draft_tokens)] = draft_tokens
        program = self.compiled.program_for([self.sequences[0].request])
        self.cache, self.state, tokens = program.verify_draft(
            self.cache, self.params, self.state, padded
        )
        ids = [int(token) for token in backend.to_host(tokens)[0] if token >= 0]
        self._append(0, ids)
        return [GeneratedToken(token) for token in ids]

    def _append(self, slot: int, ids: list[int]) -> None:
        """Record generated tokens, and whether the sequence ends or its context shifts."""
        sequence = self.sequences[slot]
        sequence.token_ids += ids
        sequence.num_computed_tokens += len(ids)
        sequence.context_shifted |= sequence.num_computed_tokens > self.max_context
        if ids and ids[-1] in sequence.request.stop_ids:
            sequence.finish_reason = "stop"
            return
        sequence.follow_grammar(ids)
        if sequence.finish_reason is not None:
            self._set_not_running([slot])
        elif sequence.remaining_tokens <= 0:
            sequence.finish_reason = "length"
        elif not self.has_rolling_cache and sequence.cache_position >= self.position_limit:
            # Absolute positions are used up: prefill the last part again from position 0.
            sequence.cache_offset = self._offset_after_shift(sequence)
            sequence.num_computed_tokens = 0
            sequence.is_decoding, sequence.context_shifted = False, True

    # -- shapes -------------------------------------------------------------------------------

    def ensure_cache_capacity(self, length: int) -> None:
        """Grow the cache to hold `length` tokens per sequence, or the context."""
        if length > self.cache_len < self.max_context:
            wanted = min(length, self.max_context)
            sizes = shape_buckets(self.max_context, MIN_CACHE_LEN)
            self.resize(range(len(self.sequences)), next(size for size in sizes if size >= wanted))

    def _offset_after_shift(self, sequence: Sequence) -> int:
        context = self.max_context if self.has_rolling_cache else self.position_limit
        return len(sequence.token_ids) - tokens_kept(context, self.has_rolling_cache)

    def _needed(self, slot: int, num_steps: int) -> int:
        return self.sequences[slot].cache_position + 1 + num_steps

    def _halt(self, slot: int) -> None:
        sequence = self.sequences[slot]
        if sequence.is_decoding and sequence.finish_reason is None:
            self._set_not_running([slot])

    def _set_not_running(self, slots: list[int]) -> None:
        kept = np.ones(len(self.sequences), bool)
        kept[slots] = False
        running = ops.logical_and(self.state.running, backend.to_device(kept))
        self.state = self.state._replace(running=running)


def common_prefix(first: list[int], second: list[int]) -> int:
    """The number of leading tokens that two sequences share."""
    length = min(len(first), len(second))
    same: Any = np.asarray(first[:length]) == np.asarray(second[:length])
    return length if same.all() else int(np.argmin(same))
