"""What a SavedModel of kgpt can do: its signatures, as functions of tensors.

Text in, text out: tokenisation, prompt, decoding loop, sampling, stop strings and detokenisation
are all in the graph. A tokenizer that the graph cannot express leaves the signatures on ids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from kgpt.config import SamplingConfig
from kgpt.export.savedmodel.controls import checked, control_specs, default_controls, spread
from kgpt.export.savedmodel.decode_loop import settings_of, write_texts
from kgpt.export.savedmodel.score import log_likelihood
from kgpt.export.savedmodel.stop_strings import StopStrings
from kgpt.export.savedmodel.tokenizer import GraphTokenizer, Inexpressible
from kgpt.model.gpt import GPT
from kgpt.text.chat_template import ChatMLTemplate, load_chat_template
from kgpt.text.tokenizer import TURN_START, Tokenizer

NOTHING = -1  # the id that fills up rows
IDS = tf.TensorSpec([None, None], tf.int32, "ids")
TEXTS = tf.TensorSpec([None], tf.string, "texts")
PROMPTS = tf.TensorSpec([None], tf.string, "prompts")
ROLES = tf.TensorSpec([None, None], tf.string, "roles")
CONTENTS = tf.TensorSpec([None, None], tf.string, "contents")
RAGGED_IDS = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1)

Tensors = dict[str, tf.Tensor]
traced = functools.partial(tf.function, autograph=False)  # nothing here needs rewriting


class ServedModel:
    """A model and its tokenizer as functions of tensors.

    Args:
        model: a GPT on the TensorFlow backend.
        tokenizer: the model's.
        defaults: the sampling of signatures without controls.

    Attributes:
        signatures: by name; "serving_default" is what servers call unless told otherwise.
        missing: signatures that cannot be had, each with the reason.
        state: the tables and weights they use.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, defaults: SamplingConfig):
        self.model, self.tokenizer, self.defaults = model, tokenizer, defaults
        self.missing: dict[str, str] = {}
        self.state = tf.Module()
        self.state.weights = [variable.value for variable in model.variables]
        self.graph = self._graph_tokenizer()
        self.state.tokenizer = self.graph
        # Traced once, used by every signature that computes.
        self._logits = traced(lambda ids: self.model(ids), input_signature=[IDS])
        specs = [RAGGED_IDS, *control_specs().values()]
        self._write = traced(self._written, input_signature=specs)
        self.signatures = self._on_ids()
        if self.graph is None:
            self.signatures["serving_default"] = self.signatures["continue_ids"]
        else:
            self.signatures |= self._on_texts() | self._on_conversations()

    def _graph_tokenizer(self) -> GraphTokenizer | None:
        try:
            return GraphTokenizer(self.tokenizer)
        except Inexpressible as error:
            reason = f"the tokenizer cannot be put into the graph: {error}"
            names = ("generate", "chat", "chat_generate", "score", "tokenize", "detokenize")
            self.missing |= dict.fromkeys(names, reason)
            return None

    def _on_ids(self) -> dict[str, Callable]:
        defaults = list(default_controls(self.defaults).values())
        specs = list(control_specs().values())[:-1]  # stop strings need text
        no_stops = tf.constant([], tf.string)

        def logits(ids):
            return {"logits": self._logits(ids)}

        def generate_ids(ids, *controls):
            length = tf.reduce_sum(tf.cast(ids >= 0, tf.int32), axis=1)
            ragged = tf.RaggedTensor.from_tensor(ids, lengths=length)
            written = self._write(ragged, *controls, no_stops)
            return {name: written[name] for name in ("ids", "num_tokens", "finish_reason")}

        def continue_ids(ids):
            return generate_ids(ids, *defaults[:-1])

        return {
            "logits": traced(logits, [IDS]),
            "continue_ids": traced(continue_ids, [IDS]),
            "generate_ids": traced(generate_ids, [IDS, *specs]),
        }

    def _on_texts(self) -> dict[str, Callable]:
        def tokenize(texts):
            ids = self.graph.encode(texts)
            return {"ids": ids.to_tensor(NOTHING), "num_tokens": _count(ids)}

        def detokenize(ids):
            ragged = tf.RaggedTensor.from_tensor(ids, ragged_rank=1)
            return {"text": self.graph.decode(ragged, skip_special=False)}

        return {
            "score": traced(self._score, [TEXTS]),
            "tokenize": traced(tokenize, [TEXTS]),
            "detokenize": traced(detokenize, [IDS]),
            "serving_default": self._replying(self._prompt_ids, [PROMPTS], controls=False),
            "generate": self._replying(self._prompt_ids, [PROMPTS], controls=True),
        }

    def _on_conversations(self) -> dict[str, Callable]:
        layout = load_chat_template(self.tokenizer)
        if not isinstance(layout, ChatMLTemplate):
            reason = "the model has no chat template"
            if layout is not None:
                reason = "the model's chat template is a Jinja template, not ChatML"
            self.missing |= dict.fromkeys(("chat", "chat_generate"), reason)
            return {}

        def ids_of(roles, contents):
            return self._conversation_ids(layout, roles, contents)

        return {
            "chat": self._replying(ids_of, [ROLES, CONTENTS], controls=False),
            "chat_generate": self._replying(ids_of, [ROLES, CONTENTS], controls=True),
        }

    def _replying(self, ids_of: Callable, specs: list, controls: bool) -> Callable:
        """A signature that writes after `ids_of(*inputs)`, with controls as inputs or without."""
        defaults = default_controls(self.defaults).values()

        def reply(*inputs):
            given = inputs[len(specs) :] if controls else defaults
            written = self._write(ids_of(*inputs[: len(specs)]), *given)
            return {name: written[name] for name in ("text", "num_tokens", "finish_reason")}

        return traced(reply, [*specs, *(control_specs().values() if controls else ())])

    # -- from texts to ids ------------------------------------------------------------------------

    def _prompt_ids(self, prompts) -> tf.RaggedTensor:
        """Ids of prompts (B,), each with the model's beginning, none empty."""
        ids = _after(self.tokenizer.bos_ids, self.graph.encode(prompts))
        empty = tf.cast(ids.row_lengths() == 0, tf.int64)
        start = tf.fill([tf.reduce_sum(empty)], self._document_start)
        return tf.concat([tf.RaggedTensor.from_row_lengths(start, empty, validate=False), ids], 1)

    @property
    def _document_start(self) -> int:
        """What an empty prompt stands for: the token before every document."""
        return self.tokenizer.eos_id or 0

    def _conversation_ids(self, layout: ChatMLTemplate, roles, contents) -> tf.RaggedTensor:
        """Ids of conversations (B, N), with the assistant's turn opened; no role: no message."""
        rows, messages = tf.unstack(tf.shape(roles))
        real = tf.reshape(roles != b"", [-1])
        start = self.tokenizer.encode(TURN_START, allow_special=True)
        roles = tf.strings.join([tf.boolean_mask(tf.reshape(roles, [-1]), real), "\n"])
        turns = _before(
            tf.concat(
                [
                    _after(start, self.graph.encode(roles)),
                    self.graph.encode(tf.boolean_mask(tf.reshape(contents, [-1]), real)),
                ],
                axis=1,
            ),
            layout.end,
        )
        owner = tf.boolean_mask(tf.repeat(tf.range(rows), messages), real)
        lengths = tf.math.unsorted_segment_sum(turns.row_lengths(), owner, rows)
        whole = tf.RaggedTensor.from_row_lengths(turns.values, lengths, validate=False)
        return _before(_after(self.tokenizer.bos_ids, whole), layout.turn_header("assistant"))

    # -- what signatures do -----------------------------------------------------------------------

    def _written(self, ids: tf.RaggedTensor, *controls) -> Tensors:
        """What goes on from ragged ids (B, None): ids filled up with -1, and their text."""
        given = dict(zip(control_specs(), controls, strict=True))
        rows = tf.cast(ids.nrows(), tf.int32)
        values = spread(rows, checked(given))
        settings = settings_of(rows, self.model.config, self.tokenizer.stop_ids, values)
        stops = StopStrings(self.graph, given["stop"]) if self.graph else None
        texts = write_texts(
            self.model, ids.to_tensor(), _count(ids), settings, values["max_new_tokens"],
            stops and stops.find,
        )  # fmt: skip
        real = tf.sequence_mask(texts.written, tf.shape(texts.new)[1])
        written = {
            "ids": tf.where(real, texts.new, NOTHING),
            "num_tokens": texts.written,
            "finish_reason": tf.where(texts.stopped, tf.constant(b"stop"), tf.constant(b"length")),
        }
        if stops:
            last = texts.part(texts.length + texts.written - 1, tf.constant(1))
            ended = (texts.written > 0) & tf.reduce_any(last == settings.stops, axis=1)
            shown = texts.written - tf.cast(ended, tf.int32)  # a token that ends is no text
            written["text"] = stops.cut(stops.decode(texts.new, shown))
        return written

    def _score(self, texts) -> Tensors:
        ids = self.graph.encode(texts)
        start = self.tokenizer.bos_ids or [self._document_start]
        whole = _after(start, ids)
        count = _count(whole)
        window = self.model.config.max_length
        likelihood = log_likelihood(self._logits, window, whole.to_tensor(), count)
        tokens = count - 1
        mean = likelihood / tf.cast(tf.maximum(tokens, 1), tf.float32)
        return {
            "log_likelihood": likelihood,
            "num_tokens": tokens,
            "perplexity": tf.exp(-mean),
        }


def _count(ids: tf.RaggedTensor) -> tf.Tensor:
    return tf.cast(ids.row_lengths(), tf.int32)


def _after(beginning: Sequence[int], ids: tf.RaggedTensor) -> tf.RaggedTensor:
    """Ragged ids with the same beginning in each row."""
    return tf.concat([_rows_of(beginning, ids), ids], axis=1) if beginning else ids


def _before(ids: tf.RaggedTensor, end: Sequence[int]) -> tf.RaggedTensor:
    """Ragged ids with the same end in each row."""
    return tf.concat([ids, _rows_of(end, ids)], axis=1)


def _rows_of(tokens: Sequence[int], like: tf.RaggedTensor) -> tf.RaggedTensor:
    row = tf.constant([list(tokens)], tf.int32)
    return tf.RaggedTensor.from_tensor(tf.tile(row, [like.nrows(), 1]), ragged_rank=1)
