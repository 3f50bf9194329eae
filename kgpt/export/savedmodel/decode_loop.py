"""Writing texts inside a TensorFlow graph: the decode path of `kgpt.generation`, in a loop.

`prefill` and `decode_n_tokens` are traced as they are. Around them is what `ModelRunner` does
on the host: read the prompts, write, look for stop strings, and read the last part of a text anew
when it has outgrown a model whose positions end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from keras import ops

from kgpt.generation.context_shift import tokens_kept
from kgpt.generation.decode import MAX_DECODE_STEPS, decode_n_tokens, prefill
from kgpt.generation.runner import PREFILL_CHUNK_SIZES
from kgpt.generation.sequence import (
    NO_LIMIT,
    DecodeState,
    SamplingParams,
    make_decode_state,
    make_sampling_params,
)
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import init_kv_cache


class Texts(NamedTuple):
    """Prompts and what has been written after them."""

    prompt: tf.Tensor  # (B, L) int32
    length: tf.Tensor  # (B,) int32, tokens of each prompt, at least one
    new: tf.Tensor  # (B, M) int32
    written: tf.Tensor  # (B,) int32
    stopped: tf.Tensor  # (B,) bool: ended by a stop string or stop id

    def part(self, first: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """(B, size) ids from place `first` (B,) of each text on; 0 where it has ended."""
        place = first[:, None] + tf.range(size)[None]
        whole = tf.concat([self.prompt, self.new, tf.zeros_like(self.prompt[:, :1])], axis=1)
        inside = tf.where(
            place < self.length[:, None],
            place,
            place - self.length[:, None] + tf.shape(self.prompt)[1],
        )
        end = tf.shape(whole)[1] - 1
        known = place < (self.length + self.written)[:, None]
        return tf.gather(whole, tf.where(known, inside, end), batch_dims=1)


def write_texts(
    model: GPT,
    prompt: tf.Tensor,
    length: tf.Tensor,
    settings: SamplingParams,
    budget: tf.Tensor,
    find_stop: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> Texts:
    """Write up to `budget` (B,) tokens after each prompt.

    Args:
        prompt: (B, L) ids, of which `length` (B,) are real.
        settings: from `settings_of`.
        find_stop: given the new ids (B, M) and how many of them there were before and are now,
            how many there are up to the end of the first stop string; -1 without one.
    """
    config = model.config
    rows, longest = tf.shape(prompt)[0], tf.maximum(tf.reduce_max(budget), 0)
    zeros = tf.zeros_like(length)
    texts = Texts(prompt, length, tf.zeros([rows, longest], tf.int32), zeros, zeros > 0)
    places = tf.minimum(tf.shape(prompt)[1] + longest, config.max_length)
    cache = init_kv_cache(config, rows, places, model.dtype_policy.compute_dtype)
    progress = beginning(texts, budget, config.known_vocab_size)

    def more(texts, unread, cache, progress):
        return tf.reduce_any(progress.running)

    def turn(texts, unread, cache, progress):
        cache, progress = tf.cond(
            tf.reduce_any(unread),
            lambda: read(model, cache, texts, progress, unread),
            lambda: (cache, progress),
        )
        cache, progress, out = decode_n_tokens(
            model.decode_step, cache, settings, progress, MAX_DECODE_STEPS
        )
        before = texts.written
        texts = add(texts, out.tokens, settings.stop_ids)
        if find_stop is not None:
            found = find_stop(texts.new, before, texts.written)
            texts = texts._replace(
                written=tf.where(found >= 0, found, texts.written),
                stopped=texts.stopped | (found >= 0),
            )
        goes_on = ~texts.stopped & (progress.remaining_tokens > 0)
        # A text that goes on, but not in its row, has used up the model's positions.
        unread = goes_on & ~progress.running
        return texts, unread, cache, progress._replace(running=goes_on)

    start = (texts, progress.running, cache, progress)
    return tf.while_loop(more, turn, start, _shapes(cache, progress))[0]


def read(model: GPT, cache, texts: Texts, progress: DecodeState, unread):
    """Read the unread texts (B,), but their last tokens, into the cache from position 0.

    Of a text longer than the context its last part is read, as much as `ModelRunner` takes.
    """
    config = model.config
    kept = tokens_kept(config, config.max_length)
    whole = texts.length + texts.written
    first = tf.where(whole > config.max_length, whole - kept, tf.zeros_like(whole))
    count = tf.where(unread, whole - 1 - first, tf.zeros_like(whole))
    most = tf.reduce_max(count)
    size = tf.clip_by_value(most, 1, PREFILL_CHUNK_SIZES[0])

    def piece(start, cache):
        here = tf.clip_by_value(count - start, 0, size)
        ids = texts.part(first + start, size)
        return start + size, prefill(model, cache, ids, tf.zeros_like(count) + start, here)

    shapes = (tf.TensorShape([]), _cache_shapes(cache))
    cache = tf.while_loop(lambda start, _: start < most, piece, (0, cache), shapes)[1]
    return cache, progress._replace(cache_position=tf.where(unread, count, progress.cache_position))


def beginning(texts: Texts, budget, vocab_size: int) -> DecodeState:
    """The progress of texts of which nothing has been read."""
    rows, size = tf.unstack(tf.shape(texts.prompt))
    last = texts.length - 1
    real = tf.where(tf.sequence_mask(texts.length, size))  # (N, 2): row, place
    ids = tf.gather_nd(texts.prompt, real)
    seen = tf.scatter_nd(
        tf.stack([tf.cast(real[:, 0], tf.int32), ids], axis=1),
        tf.ones_like(ids),
        [rows, vocab_size],
    )
    zeros = tf.zeros_like(last)
    return make_decode_state(
        texts.prompt,
        texts.length,
        budget,
        cache_position=zeros,
        num_generated=zeros,
        prompt_mask=seen > 0,
        token_counts=tf.zeros([rows, vocab_size], tf.int32),
        xp=ops,
    )


def add(texts: Texts, tokens, stops) -> Texts:
    """`texts` with tokens (B, MAX_DECODE_STEPS) at their ends; -1 is none."""
    real = tf.where(tokens >= 0)
    row, step = tf.unstack(tf.cast(real, tf.int32), axis=1)
    places = tf.stack([row, tf.gather(texts.written, row) + step], axis=1)
    ended = tf.reduce_any(
        (tokens[:, :, None] == stops[:, None]) & (tokens >= 0)[:, :, None], [1, 2]
    )
    return texts._replace(
        new=tf.tensor_scatter_nd_update(texts.new, places, tf.gather_nd(tokens, real)),
        written=texts.written + tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), axis=1),
        stopped=texts.stopped | ended,
    )


def settings_of(rows: tf.Tensor, config, stop_ids, values: dict[str, tf.Tensor]) -> SamplingParams:
    """The `SamplingParams` of `rows` texts.

    Args:
        config: the `ModelConfig`.
        stop_ids: ids that end a text.
        values: of each setting by name, (B,) or (1,) for all; what is missing is off.
    """
    return make_sampling_params(
        values,
        rows,
        config.vocab_size,
        stop_ids=stop_ids,
        max_position=NO_LIMIT if config.position == "rotary" else config.max_length,
        xp=ops,
    )


def _cache_shapes(cache):
    return [
        tuple(tf.TensorShape([None, x.shape[1], None, x.shape[3]]) for x in pair) for pair in cache
    ]


def _shapes(cache, progress: DecodeState):
    """What of the loop's tensors is known beforehand: everything but rows and lengths."""
    flat, table = tf.TensorShape([None]), tf.TensorShape([None, None])
    texts = Texts(table, flat, table, flat, flat)
    known = DecodeState(*(tf.TensorShape([None, *part.shape[1:]]) for part in progress))
    return texts, flat, _cache_shapes(cache), known
