"""The decode path: every token that kgpt writes comes out of `decode_n_tokens`.

Pure functions of (model, cache, settings, progress). They are compiled by `generation/batch.py`,
and traced into a TensorFlow graph by the SavedModel export.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from kgpt import backend
from kgpt.generation import sampling
from kgpt.generation.sequence import ALTERNATIVES, Progress, Settings

CHUNK = 16  # most tokens written in one call


class Written(NamedTuple):
    """What a call of `decode_n_tokens` wrote, -1 where a row wrote nothing."""

    tokens: Any  # (B, CHUNK) int32
    logprobs: Any  # (B, CHUNK), of the chosen tokens under the model itself; 0 if not wanted
    top_ids: Any  # (B, CHUNK, A) int32, the likeliest tokens
    top_logprobs: Any  # (B, CHUNK, A), under the model itself
    top_filtered: Any  # (B, CHUNK, A), probabilities after all sampling controls


def prefill(model, cache, ids, start, count):
    """The cache with `count` (B,) of ids (B, T) read in, from positions `start` (B,)."""
    return model.call_with_cache(ids, start, count, cache)[1]


def decode_n_tokens(step, cache, settings: Settings, progress: Progress, steps, chunk=CHUNK):
    """Write up to `steps` tokens in each running row: a loop inside one compiled call.

    Args:
        step: `GPT.decode_step` of the model, or what computes the same.
        steps: how many, at most `chunk`; a tensor, so any number uses the same program.

    Returns:
        the cache, the progress, and `Written`.
    """
    rows = ops.shape(progress.counts)[0]
    alternatives = min(ALTERNATIVES, progress.counts.shape[1])
    out = Written(
        tokens=ops.full((rows, chunk), -1, "int32"),
        logprobs=ops.zeros((rows, chunk)),
        top_ids=ops.zeros((rows, chunk, alternatives), "int32"),
        top_logprobs=ops.zeros((rows, chunk, alternatives)),
        top_filtered=ops.zeros((rows, chunk, alternatives)),
    )

    def more(i, cache, progress, out):
        return ops.logical_and(i < steps, ops.any(progress.running))

    def write(i, cache, progress, out):
        count = ops.cast(progress.running, "int32")
        logits, cache = step(progress.token, progress.place, count, cache)
        chosen, report = choose(logits, settings, progress)
        chosen = ops.where(progress.running, chosen, -1)
        out = Written(
            *(
                backend.update_column(part, i, new)
                for part, new in zip(out, (chosen, *report), strict=True)
            )
        )
        return i + 1, cache, advance(settings, progress, chosen), out

    start = (ops.zeros((), "int32"), cache, progress, out)
    _, cache, progress, out = ops.while_loop(more, write, start)
    return cache, progress, out


def verify_tokens(model, cache, settings: Settings, progress: Progress, drafts):
    """Write as many tokens as a draft foresees, and one more, with one pass through the model.

    What is written is what `decode_n_tokens` would write: noise is a function of (seed, position),
    so a draft can only save time, never change the text.

    Args:
        drafts: (B, J) guesses of the next tokens, -1 for none.

    Returns:
        the cache, the progress, and (B, J + 1) tokens, -1 after the first that was not foreseen.
    """
    guesses = ops.maximum(drafts, 0)
    ids = ops.concatenate([progress.token[:, None], guesses], axis=1)  # (B, J + 1)
    count = ops.cast(progress.running, "int32") * ids.shape[1]
    hidden, cache = model.call_with_cache(ids, progress.place, count, cache)
    logits = model.unembed(hidden)  # (B, J + 1, V)
    written, may_go_on = [], progress.running
    for i in range(ids.shape[1]):
        chosen = ops.where(progress.running, choose(logits[:, i], settings, progress)[0], -1)
        written.append(chosen)
        after = advance(settings, progress, chosen)
        foreseen = chosen == drafts[:, i] if i < drafts.shape[1] else chosen >= 0
        # Whether the text goes on is one thing, whether the draft foresaw it another.
        may_go_on = ops.where(chosen >= 0, after.running, may_go_on)
        progress = after._replace(running=ops.logical_and(after.running, foreseen))
    return cache, progress._replace(running=may_go_on), ops.stack(written, axis=1)


def choose(logits, settings: Settings, progress: Progress):
    """The next token of each row (B,), from logits (B, V), and what `Written` tells of it."""
    s, p = settings, progress
    controlled = control(logits, settings, progress)
    sampled = _where_any(s.temperature > 0, lambda x: _filter(x, settings), controlled)
    chosen = backend.cond(
        ops.any(s.temperature > 0),
        lambda: sampling.draw(sampled, s.temperature, s.seed, p.index),
        lambda: sampling.likeliest(sampled),
    )
    return chosen, _report(logits, sampled, chosen, settings)


def control(logits, settings: Settings, progress: Progress):
    """Bias, penalties, bans and minimum length: what holds for greedy rows too."""
    s, p = settings, progress
    logits = sampling.add_bias(logits, s.bias)
    seen = ops.logical_or(p.prompt, p.counts > 0)
    logits = _where_any(
        s.repetition_penalty != 1,
        lambda x: sampling.penalise_repetition(x, seen, s.repetition_penalty),
        logits,
    )
    penalised = ops.logical_or(s.presence_penalty != 0, s.frequency_penalty != 0)
    logits = _where_any(
        penalised,
        lambda x: sampling.penalise_written(x, p.counts, s.presence_penalty, s.frequency_penalty),
        logits,
    )
    logits = _where_any(
        s.phrases[:, :, -1] >= 0, lambda x: sampling.ban_phrases(x, p.tail, s.phrases), logits
    )
    too_short = p.written < s.min_tokens
    return _where_any(
        too_short,
        lambda x: sampling.block_ids(x, ops.where(too_short[:, None], s.stops, -1)),
        logits,
    )


def _filter(logits, settings: Settings):
    """Temperature and the filters of rows that sample."""
    s = settings
    logits = sampling.apply_temperature(logits, s.temperature)
    logits = _where_any(s.top_k > 0, lambda x: sampling.filter_top_k(x, s.top_k), logits)
    logits = _where_any(s.top_p < 1, lambda x: sampling.filter_top_p(x, s.top_p), logits)
    logits = _where_any(s.min_p > 0, lambda x: sampling.filter_min_p(x, s.min_p), logits)
    return _where_any(s.typical_p < 1, lambda x: sampling.filter_typical(x, s.typical_p), logits)


def _report(logits, filtered, chosen, settings: Settings):
    """Log-probabilities of the chosen and the likeliest tokens, if any row wants them."""
    alternatives = min(ALTERNATIVES, logits.shape[1])
    rows = ops.shape(logits)[0]

    def look():
        logprobs = ops.log_softmax(logits, axis=-1)  # (B, V)
        values, ids = ops.top_k(logprobs, alternatives)  # (B, A)
        # A greedy row gives its choice everything.
        greedy = ops.one_hot(chosen, logits.shape[1], dtype="float32")
        sampling_rows = (settings.temperature > 0)[:, None]
        after = ops.where(sampling_rows, ops.softmax(filtered, axis=-1), greedy)
        ids = ops.cast(ids, "int32")
        return (
            ops.take_along_axis(logprobs, chosen[:, None], axis=-1)[:, 0],
            ids,
            values,
            ops.take_along_axis(after, ids, axis=-1),
        )

    def nothing():
        zeros = ops.zeros((rows, alternatives))
        return ops.zeros((rows,)), ops.zeros((rows, alternatives), "int32"), zeros, zeros

    return backend.cond(ops.any(settings.wants > 0), look, nothing)


def advance(settings: Settings, progress: Progress, chosen) -> Progress:
    """The progress after each running row has written its `chosen` token (B,)."""
    p, went = progress, progress.running
    step = ops.cast(went, "int32")
    ended = ops.any(settings.stops == chosen[:, None], axis=-1)
    place, budget = p.place + step, p.budget - step
    going = ops.logical_and(budget > 0, place < settings.limit)
    here = ops.arange(p.counts.shape[1], dtype="int32")[None] == chosen[:, None]  # (B, V)
    return Progress(
        token=ops.where(went, chosen, p.token),
        place=place,
        index=p.index + step,
        written=p.written + step,
        budget=budget,
        running=ops.logical_and(went, ops.logical_and(going, ops.logical_not(ended))),
        prompt=p.prompt,
        counts=p.counts + ops.cast(here, "int32"),
        tail=ops.where(
            went[:, None], ops.concatenate([p.tail[:, 1:], chosen[:, None]], axis=1), p.tail
        ),
    )


def _where_any(rows, change, logits):
    """`change(logits)` if any row asks for it; the change itself leaves the others alone."""
    return backend.cond(ops.any(rows), lambda: change(logits), lambda: logits)
