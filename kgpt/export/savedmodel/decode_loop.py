"""Generation inside a TensorFlow graph: the decode path of `kgpt.generation` in a loop.

`prefill` and `decode_n_tokens` are traced as they are. The loop around them does what `ModelRunner`
does on the host: prefill, decode, look for stop strings, and prefill the last part of a sequence
again when it has outgrown the positions of the model (context shift).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops

from kgpt.config import ModelConfig
from kgpt.generation.context_shift import tokens_kept
from kgpt.generation.decode import MAX_DECODE_STEPS, decode_n_tokens
from kgpt.generation.decode import prefill as prefill_chunk
from kgpt.generation.sequence import (
    NO_LIMIT,
    DecodeState,
    SamplingParams,
    make_decode_state,
    make_sampling_params,
)
from kgpt.generation.shapes import PREFILL_CHUNK_SIZES
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import init_kv_cache

Cache = Any  # a (keys, values) pair for each layer
FindStop = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class SequenceBatch(NamedTuple):
    """Prompts and the tokens generated after them."""

    prompt: tf.Tensor  # (B, L) int32
    prompt_length: tf.Tensor  # (B,) int32, tokens of each prompt, at least one
    generated: tf.Tensor  # (B, M) int32
    num_generated: tf.Tensor  # (B,) int32
    stopped: tf.Tensor  # (B,) bool: ended by a stop string or stop id

    @property
    def length(self) -> tf.Tensor:
        """(B,) int32, tokens of each sequence."""
        return self.prompt_length + self.num_generated

    def slice(self, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """(B, size) ids from position `start` (B,) of each sequence; 0 after its end."""
        position = start[:, None] + tf.range(size)[None]
        ids = tf.concat([self.prompt, self.generated, tf.zeros_like(self.prompt[:, :1])], axis=1)
        prompt_length = self.prompt_length[:, None]
        index = tf.where(
            position < prompt_length,
            position,
            position - prompt_length + tf.shape(self.prompt)[1],
        )
        end = tf.shape(ids)[1] - 1
        return tf.gather(ids, tf.where(position < self.length[:, None], index, end), batch_dims=1)


def generate(
    model: GPT,
    prompt: tf.Tensor,
    prompt_length: tf.Tensor,
    params: SamplingParams,
    max_new_tokens: tf.Tensor,
    find_stop: FindStop | None = None,
) -> SequenceBatch:
    """Generate up to `max_new_tokens` (B,) tokens after each prompt.

    Args:
        prompt: (B, L) ids, of which `prompt_length` (B,) are real.
        params: from `sampling_params`.
        find_stop: from the generated ids (B, M) and their number before and after the latest call
            to the number up to the end of the first stop string; -1 without one.
    """
    config = model.config
    batch_size, longest = tf.shape(prompt)[0], tf.maximum(tf.reduce_max(max_new_tokens), 0)
    zeros = tf.zeros_like(prompt_length)
    generated = tf.zeros([batch_size, longest], tf.int32)
    batch = SequenceBatch(prompt, prompt_length, generated, zeros, zeros > 0)
    cache_len = tf.minimum(tf.shape(prompt)[1] + longest, config.max_length)
    cache = init_kv_cache(config, batch_size, cache_len, model.dtype_policy.compute_dtype)
    state = init_state(batch, max_new_tokens, config.known_vocab_size)

    def any_running(
        batch: SequenceBatch, pending: tf.Tensor, cache: Cache, state: DecodeState
    ) -> tf.Tensor:
        return tf.reduce_any(state.running)

    def step(
        batch: SequenceBatch, pending: tf.Tensor, cache: Cache, state: DecodeState
    ) -> tuple[SequenceBatch, tf.Tensor, Cache, DecodeState]:
        cache, state = tf.cond(
            tf.reduce_any(pending),
            lambda: prefill(model, cache, batch, state, pending),
            lambda: (cache, state),
        )
        cache, state, out = decode_n_tokens(
            model.decode_step, cache, params, state, MAX_DECODE_STEPS
        )
        before = batch.num_generated
        batch = append(batch, out.tokens, params.stop_ids)
        if find_stop is not None:
            found = find_stop(batch.generated, before, batch.num_generated)
            batch = batch._replace(
                num_generated=tf.where(found >= 0, found, batch.num_generated),
                stopped=batch.stopped | (found >= 0),
            )
        unfinished = ~batch.stopped & (state.remaining_tokens > 0)
        # An unfinished sequence that is no longer running has used up the model's positions.
        pending = unfinished & ~state.running
        return batch, pending, cache, state._replace(running=unfinished)

    start = (batch, state.running, cache, state)
    final: SequenceBatch = tf.while_loop(any_running, step, start, _loop_shapes(cache, state))[0]
    return final


def prefill(
    model: GPT, cache: Cache, batch: SequenceBatch, state: DecodeState, pending: tf.Tensor
) -> tuple[Cache, DecodeState]:
    """Prefill the `pending` (B,) sequences, except their last tokens, from cache position 0.

    Of a sequence longer than the context, the last `tokens_kept` tokens are prefilled.
    """
    config = model.config
    start = tf.where(
        batch.length > config.max_length,
        batch.length - tokens_kept(config.max_length, config.position == "rotary"),
        tf.zeros_like(batch.length),
    )
    count = tf.where(pending, batch.length - 1 - start, tf.zeros_like(start))
    longest = tf.reduce_max(count)
    size = tf.clip_by_value(longest, 1, PREFILL_CHUNK_SIZES[0])

    def next_chunk(position: tf.Tensor, cache: Cache) -> tuple[tf.Tensor, Cache]:
        real = tf.clip_by_value(count - position, 0, size)
        ids = batch.slice(start + position, size)
        positions = tf.zeros_like(count) + position
        return position + size, prefill_chunk(model, cache, ids, positions, real)

    shapes = (tf.TensorShape([]), _cache_shapes(cache))
    cache = tf.while_loop(lambda position, _: position < longest, next_chunk, (0, cache), shapes)[1]
    return cache, state._replace(cache_position=tf.where(pending, count, state.cache_position))


def init_state(batch: SequenceBatch, max_new_tokens: tf.Tensor, vocab_size: int) -> DecodeState:
    """The state of sequences that have not been prefilled."""
    batch_size, size = tf.unstack(tf.shape(batch.prompt))
    real = tf.where(tf.sequence_mask(batch.prompt_length, size))  # (N, 2): sequence, position
    ids = tf.gather_nd(batch.prompt, real)
    prompt_counts = tf.scatter_nd(
        tf.stack([tf.cast(real[:, 0], tf.int32), ids], axis=1),
        tf.ones_like(ids),
        [batch_size, vocab_size],
    )
    zeros = tf.zeros_like(batch.prompt_length)
    return make_decode_state(
        batch.prompt,
        batch.prompt_length,
        max_new_tokens,
        cache_position=zeros,
        num_generated=zeros,
        prompt_mask=prompt_counts > 0,
        token_counts=tf.zeros([batch_size, vocab_size], tf.int32),
        xp=ops,
    )


def append(batch: SequenceBatch, tokens: tf.Tensor, stop_ids: tf.Tensor) -> SequenceBatch:
    """`batch` with tokens (B, MAX_DECODE_STEPS) appended; -1 is none."""
    real = tf.where(tokens >= 0)
    row, step = tf.unstack(tf.cast(real, tf.int32), axis=1)
    index = tf.stack([row, tf.gather(batch.num_generated, row) + step], axis=1)
    stopped = tf.reduce_any(
        (tokens[:, :, None] == stop_ids[:, None]) & (tokens >= 0)[:, :, None], [1, 2]
    )
    return batch._replace(
        generated=tf.tensor_scatter_nd_update(batch.generated, index, tf.gather_nd(tokens, real)),
        num_generated=batch.num_generated + tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), axis=1),
        stopped=batch.stopped | stopped,
    )


def sampling_params(
    batch_size: tf.Tensor,
    config: ModelConfig,
    stop_ids: Iterable[int],
    controls: dict[str, tf.Tensor],
) -> SamplingParams:
    """The `SamplingParams` of a batch; `controls` are (B,) or (1,), and off if left out."""
    return make_sampling_params(
        controls,
        batch_size,
        config.known_vocab_size,
        stop_ids=stop_ids,
        max_position=NO_LIMIT if config.position == "rotary" else config.max_length,
        xp=ops,
    )


def _cache_shapes(cache: Cache) -> list[tuple[tf.TensorShape, ...]]:
    return [
        tuple(tf.TensorShape([None, x.shape[1], None, x.shape[3]]) for x in pair) for pair in cache
    ]


def _loop_shapes(cache: Cache, state: DecodeState) -> tuple[Any, ...]:
    """The static shapes of the loop's variables: all but batch size and lengths."""
    vector, matrix = tf.TensorShape([None]), tf.TensorShape([None, None])
    batch = SequenceBatch(matrix, vector, matrix, vector, vector)
    states = DecodeState(*(tf.TensorShape([None, *part.shape[1:]]) for part in state))
    return batch, vector, _cache_shapes(cache), states
