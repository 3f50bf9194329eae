"""The signatures of a text generator's SavedModel: what it computes, as functions of tensors.

Tokenization, chat template, decode loop, sampling, stop strings and detokenization are all in the
graph. With a tokenizer that the graph does not support, only the signatures on ids are left.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from kgpt.config import SamplingConfig
from kgpt.export.savedmodel.controls import (
    broadcast_controls,
    check_controls,
    control_specs,
    default_controls,
)
from kgpt.export.savedmodel.decode_loop import generate, sampling_params
from kgpt.export.savedmodel.served_model import (
    IDS,
    PAD_ID,
    TEXTS,
    Function,
    ServedModel,
    Tensors,
    append,
    prepend,
    row_lengths,
    traced,
)
from kgpt.export.savedmodel.stop_strings import StopStrings
from kgpt.model.gpt import GPT
from kgpt.text.chat_template import ChatMLTemplate, load_chat_template
from kgpt.text.tokenizer import TURN_START, Tokenizer

PROMPTS = tf.TensorSpec([None], tf.string, "prompts")
ROLES = tf.TensorSpec([None, None], tf.string, "roles")
CONTENTS = tf.TensorSpec([None, None], tf.string, "contents")
RAGGED_IDS = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1)


class ServedGenerator(ServedModel):
    """A text generator as functions of tensors.

    Args:
        defaults: the sampling of signatures without controls.
    """

    text_signatures = ("generate", "chat", "chat_generate", "score", "tokenize", "detokenize")

    def __init__(self, model: GPT, tokenizer: Tokenizer, defaults: SamplingConfig):
        super().__init__(model, tokenizer)
        self.defaults = defaults
        # Traced once, used by every signature that computes.
        self._logits = traced(lambda ids: self.model(ids), input_signature=[IDS])
        specs = [RAGGED_IDS, *control_specs().values()]
        self._generate = traced(self._generate_from_ids, input_signature=specs)
        self.signatures = self._id_signatures()
        if self.graph_tokenizer is None:
            self.signatures["serving_default"] = self.signatures["continue_ids"]
        else:
            self.signatures |= self._text_signatures() | self._chat_signatures()

    def _id_signatures(self) -> dict[str, Function]:
        defaults = list(default_controls(self.defaults).values())
        specs = list(control_specs().values())[:-1]  # all but the stop strings, which need text
        no_stops = tf.constant([], tf.string)

        def logits(ids: tf.Tensor) -> Tensors:
            return {"logits": self._logits(ids)}

        def generate_ids(ids: tf.Tensor, *controls: tf.Tensor) -> Tensors:
            length = tf.reduce_sum(tf.cast(ids >= 0, tf.int32), axis=1)
            ragged = tf.RaggedTensor.from_tensor(ids, lengths=length)
            outputs = self._generate(ragged, *controls, no_stops)
            return {name: outputs[name] for name in ("ids", "num_tokens", "finish_reason")}

        def continue_ids(ids: tf.Tensor) -> Tensors:
            return generate_ids(ids, *defaults[:-1])

        return {
            "logits": traced(logits, [IDS]),
            "continue_ids": traced(continue_ids, [IDS]),
            "generate_ids": traced(generate_ids, [IDS, *specs]),
        }

    def _text_signatures(self) -> dict[str, Function]:
        def detokenize(ids: tf.Tensor) -> Tensors:
            ragged = tf.RaggedTensor.from_tensor(ids, ragged_rank=1)
            return {"text": self._tokenizer.decode(ragged, skip_special_tokens=False)}

        return {
            "score": traced(self._score, [TEXTS]),
            "tokenize": traced(self._tokenize, [TEXTS]),
            "detokenize": traced(detokenize, [IDS]),
            "serving_default": self._generating(self._prompt_ids, [PROMPTS], controls=False),
            "generate": self._generating(self._prompt_ids, [PROMPTS], controls=True),
        }

    def _chat_signatures(self) -> dict[str, Function]:
        template = load_chat_template(self.tokenizer)
        if not isinstance(template, ChatMLTemplate):
            reason = "the model has no chat template"
            if template is not None:
                reason = "the model's chat template is a Jinja template, not ChatML"
            self.missing |= dict.fromkeys(("chat", "chat_generate"), reason)
            return {}

        def encode(roles: tf.Tensor, contents: tf.Tensor) -> tf.RaggedTensor:
            return self._conversation_ids(template, roles, contents)

        return {
            "chat": self._generating(encode, [ROLES, CONTENTS], controls=False),
            "chat_generate": self._generating(encode, [ROLES, CONTENTS], controls=True),
        }

    def _generating(
        self, encode: Callable[..., tf.RaggedTensor], specs: list[tf.TensorSpec], controls: bool
    ) -> Function:
        """A signature that continues `encode(*inputs)`; with `controls`, they are inputs too."""
        defaults = default_controls(self.defaults).values()

        def signature(*inputs: tf.Tensor) -> Tensors:
            settings = inputs[len(specs) :] if controls else defaults
            outputs = self._generate(encode(*inputs[: len(specs)]), *settings)
            return {name: outputs[name] for name in ("text", "num_tokens", "finish_reason")}

        return traced(signature, [*specs, *(control_specs().values() if controls else ())])

    # -- from text to ids -------------------------------------------------------------------------

    def _conversation_ids(
        self, template: ChatMLTemplate, roles: tf.Tensor, contents: tf.Tensor
    ) -> tf.RaggedTensor:
        """Ids of conversations (B, N) with a generation prompt; an empty role is padding."""
        batch_size, messages = tf.unstack(tf.shape(roles))
        real = tf.reshape(roles != b"", [-1])
        start = self.tokenizer.encode(TURN_START, allow_special=True)
        roles = tf.strings.join([tf.boolean_mask(tf.reshape(roles, [-1]), real), "\n"])
        contents = tf.boolean_mask(tf.reshape(contents, [-1]), real)
        headers = prepend(start, self._tokenizer.encode(roles))
        turns = append(tf.concat([headers, self._tokenizer.encode(contents)], axis=1), template.end)
        owner = tf.boolean_mask(tf.repeat(tf.range(batch_size), messages), real)
        lengths = tf.math.unsorted_segment_sum(turns.row_lengths(), owner, batch_size)
        ids = tf.RaggedTensor.from_row_lengths(turns.values, lengths, validate=False)
        return append(prepend(self.tokenizer.bos_ids, ids), template.turn_header("assistant"))

    # -- what the signatures compute --------------------------------------------------------------

    def _generate_from_ids(self, ids: tf.RaggedTensor, *controls: tf.Tensor) -> Tensors:
        """Continuations of ragged ids (B, None): ids padded with -1, and their text."""
        named = dict(zip(control_specs(), controls, strict=True))
        batch_size = tf.cast(ids.nrows(), tf.int32)
        values = broadcast_controls(batch_size, check_controls(named))
        params = sampling_params(batch_size, self.model.config, self.tokenizer.stop_ids, values)
        stops = StopStrings(self.graph_tokenizer, named["stop"]) if self.graph_tokenizer else None
        batch = generate(
            self.model, ids.to_tensor(), row_lengths(ids), params, values["max_new_tokens"],
            stops.find if stops else None,
        )  # fmt: skip
        real = tf.sequence_mask(batch.num_generated, tf.shape(batch.generated)[1])
        outputs = {
            "ids": tf.where(real, batch.generated, PAD_ID),
            "num_tokens": batch.num_generated,
            "finish_reason": tf.where(batch.stopped, tf.constant(b"stop"), tf.constant(b"length")),
        }
        if stops:
            last = batch.slice(batch.length - 1, tf.constant(1))
            at_stop_id = (batch.num_generated > 0) & tf.reduce_any(last == params.stop_ids, axis=1)
            shown = batch.num_generated - tf.cast(at_stop_id, tf.int32)  # a stop id is not decoded
            outputs["text"] = stops.cut(stops.decode(batch.generated, shown))
        return outputs

    def _score(self, texts: tf.Tensor) -> Tensors:
        """Log-likelihood, number of tokens and perplexity of texts (B,)."""
        start = self.tokenizer.bos_ids or [self._document_start]
        ids = prepend(start, self._tokenizer.encode(texts))
        length = row_lengths(ids)
        window = self.model.config.max_length
        log_likelihood = _log_likelihood(self._logits, window, ids.to_tensor(), length)
        num_tokens = length - 1
        mean = log_likelihood / tf.cast(tf.maximum(num_tokens, 1), tf.float32)
        return {
            "log_likelihood": log_likelihood,
            "num_tokens": num_tokens,
            "perplexity": tf.exp(-mean),
        }


def _log_likelihood(
    logits: Callable[[tf.Tensor], tf.Tensor], window: int, ids: tf.Tensor, length: tf.Tensor
) -> tf.Tensor:
    """Sum of the log-probabilities (B,) of all tokens but the first.

    A text longer than the context is evaluated in consecutive windows, each of which begins with
    the last token of the one before.

    Args:
        logits: the model: ids (B, W) to logits (B, W, V). window: the largest W.
        ids: (B, T) int32, of which `length` (B,) are real.
    """
    ids = tf.pad(ids, [[0, 0], [0, 1]])
    end = tf.reduce_max(length) - 1

    def add_window(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = ids[:, start : tf.minimum(start + window, end)]
        targets = ids[:, start + 1 : tf.minimum(start + window, end) + 1]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits(inputs))  # (B, W)
        position = start + 1 + tf.range(tf.shape(targets)[1])
        real = tf.cast(position[None] < length[:, None], losses.dtype)
        return start + window, total - tf.reduce_sum(losses * real, axis=1)

    zeros = tf.zeros(tf.shape(length), tf.float32)
    shapes = (tf.TensorShape([]), tf.TensorShape([None]))
    return tf.while_loop(lambda start, _: start < end, add_window, (0, zeros), shapes)[1]
