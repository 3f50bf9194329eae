"""What is compiled for a model, once, however many batches and searches use it."""

from __future__ import annotations

import weakref

import keras
from keras import ops

from kgpt import backend
from kgpt.generation import decode
from kgpt.generation.sequence import DecodeState, SamplingParams
from kgpt.model.gpt import GPT

_programs: weakref.WeakKeyDictionary[GPT, Programs] = weakref.WeakKeyDictionary()


class Programs:
    """The compiled functions of one model; each compiles anew for each shape it meets.

    Caches and progress that are passed in may be overwritten: use what is returned.
    """

    def __init__(self, model: GPT):
        self._model = weakref.ref(model)
        variables = model.variables
        compiled = backend.jit
        self.step = backend.fx_trace(self._step)
        self.read = compiled(self._read, variables, donated=(0,))
        self.slice_row = compiled(_take_row)
        self.write = compiled(self._write, variables, donated=(0, 2))
        self.rank = compiled(self._rank, variables, donated=(0,))
        self.verify = compiled(self._verify, variables, donated=(0, 2))
        self.look = compiled(self._look, variables, donated=(0,))
        self.follow = compiled(_follow, donated=(0, 2))
        self.update_row = compiled(_put_row, donated=(0,))

    @classmethod
    def of(cls, model: GPT) -> Programs:
        if model not in _programs:
            if not model.compiled:  # one being trained stays as its optimizer wants it
                backend.transpose_weights_inplace(model.kernels)
            _programs[model] = cls(model)
        return _programs[model]

    def compilations(self) -> int:
        """How many programs have been compiled, or recorded, so far."""
        return sum(
            program.compilations() for program in vars(self).values() if callable(program)
            and hasattr(program, "compilations")
        )  # fmt: skip

    @property
    def model(self) -> GPT:
        model = self._model()
        assert model is not None, "the model of these programs is gone"
        return model

    def _read(self, cache, ids, start, count):
        """Read ids (B, T) into all rows of a cache."""
        return decode.prefill(self.model, cache, ids, start, count)

    def _write(self, cache, settings, progress, steps):
        return decode.decode_n_tokens(
            self.step, cache, SamplingParams(*settings), DecodeState(*progress), steps
        )

    def _step(self, token, place, count, cache):
        return self.model.decode_step(token, place, count, cache)

    def _rank(self, cache, settings, progress):
        """Take in each row's token; the log-probabilities of the next, controlled: (B, V)."""
        ones = ops.ones_like(progress.token)
        logits, cache = self.step(progress.token, progress.place, ones, cache)
        logprobs = ops.log_softmax(logits, axis=-1)
        return cache, decode.control(logprobs, settings, progress)

    def _verify(self, cache, settings, progress, drafts):
        return decode.verify_tokens(
            self.model, cache, SamplingParams(*settings), DecodeState(*progress), drafts
        )

    def _look(self, cache, ids, start, count):
        """Read ids (B, T): the cache, all hidden states, the probabilities after the last."""
        hidden, cache = self.model.call_with_cache(ids, start, count, cache)
        last = ops.take_along_axis(hidden, (count - 1)[:, None, None], axis=1)[:, 0]
        return cache, hidden, ops.softmax(self.model.unembed(last), axis=-1)


def _follow(cache, settings, progress, sources, chosen):
    """Row i goes on from what row `sources[i]` was, with the token `chosen[i]`."""
    cache = [(ops.take(k, sources, axis=0), ops.take(v, sources, axis=0)) for k, v in cache]
    progress = DecodeState(*(ops.take(part, sources, axis=0) for part in progress))
    return cache, decode.advance(settings, progress, chosen)


def _take_row(state, row):
    """One row of every tensor (B, ...) in `state`, as (1, ...); a view where there are views."""
    return keras.tree.map_structure(lambda part: backend.slice_row(part, row), state)


def _put_row(state, row, values):
    """`state`, of tensors (B, ...), with one row replaced by `values` (1, ...)."""
    return keras.tree.map_structure(
        lambda part, value: backend.update_row(part, row, value), state, values
    )
