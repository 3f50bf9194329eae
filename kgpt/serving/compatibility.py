"""Fields that clients of other servers send: other names, other values, and what is unsupported.

An unsupported field is refused, unless its value has no effect. A field of a request that is in
no table and in no schema is unknown: it is ignored, or refused by `kgpt serve --strict`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

Values = Mapping[str, Any]  # of one JSON object
# The values of a field that have no effect, or a function of the object that says whether it has.
Neutral = tuple[Any, ...] | Callable[[Values], bool]


def _no_tools(values: Values) -> bool:
    return not values["tools"] or values.get("tool_choice") == "none"


def _no_functions(values: Values) -> bool:
    return not values["functions"] or values.get("function_call") == "none"


def _no_penalty(values: Values) -> bool:
    return values.get("repetition_penalty", 1) == 1


def _whole_context(values: Values) -> bool:
    return values["repeat_last_n"] == -1 or _no_penalty(values)


def _penalizes_newlines(values: Values) -> bool:
    return _no_penalty(values) or True in (
        values.get("penalize_nl"),
        values.get("penalize_newline"),
    )


OPENAI: dict[str, Neutral] = {
    "suffix": ("",),
    "best_of": (1,),
    "tools": _no_tools,
    "tool_choice": ("none", "auto"),
    "functions": _no_functions,
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
VLLM: dict[str, Neutral] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "chat_template": (),
    "documents": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "logits_processors": ([],),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structural_tag": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
LLAMA_CPP: dict[str, Neutral] = {
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "image_data": ([],),
    "lora": ([],),
    "min_keep": (0, 1),
    "mirostat": (0,),
    "n_indent": (0,),
    "n_probs": (0,),
    "penalize_nl": _penalizes_newlines,
    "repeat_last_n": _whole_context,
    "return_tokens": (False,),
    "samplers": ([], ""),
    "t_max_predict_ms": (0, -1),
    "tfs_z": (1,),
    "top_n_sigma": (-1, 0),
    "xtc_probability": (0,),
}
OLLAMA: dict[str, Neutral] = {
    "context": ([],),
    "format": ("",),
    "images": ([],),
    "options": ({},),
    "penalize_newline": _penalizes_newlines,
    "raw": (False,),
    "system": ("",),
    "template": ("",),
    "think": (False,),
}
UNSUPPORTED: dict[str, Neutral] = OPENAI | VLLM | LLAMA_CPP | OLLAMA
# Fields beside the sampling options, not among them; see `kgpt.serving.structured_output`.
STRUCTURED_OUTPUT: dict[str, Neutral] = dict.fromkeys(
    (
        "grammar", "guided_choice", "guided_grammar", "guided_json", "guided_regex",
        "guided_whitespace_pattern", "json_schema", "response_format", "structured_outputs",
    ),
    (),
)  # fmt: skip
UNSUPPORTED_IN_MESSAGES: dict[str, Neutral] = {
    "audio": (),
    "function_call": (),
    "images": ([],),
    "prefix": (False,),
}
# What to do instead of leaving an unsupported field out.
REMEDIES = {
    "conversation": "responses are not stored, so send the whole conversation as input",
    "previous_response_id": "responses are not stored, so send the whole conversation as input",
    "prefix": "send continue_final_message: true",
    "use_beam_search": "send beam_size",
}

# Fields that do not affect the text, or only with an unsupported field that has an effect.
IGNORED = frozenset(
    (
        # OpenAI
        "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key",
        "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user",
        # vLLM
        "cache_salt", "chat_template_kwargs", "guided_decoding_backend", "include_reasoning",
        "kv_transfer_params", "mm_processor_kwargs", "priority", "request_id",
        "spaces_between_special_tokens",
        # llama.cpp
        "cache_prompt", "dry_allowed_length", "dry_base", "dry_penalty_last_n",
        "dry_sequence_breakers", "dynatemp_exponent", "id_slot", "mirostat_eta", "mirostat_tau",
        "n_discard", "n_keep", "post_sampling_probs", "reasoning_format", "response_fields",
        "return_progress", "timings_per_token", "xtc_threshold",
        # Ollama
        "f16_kv", "keep_alive", "logits_all", "low_vram", "main_gpu", "num_batch", "num_ctx",
        "num_gpu", "num_keep", "num_thread", "numa", "shift", "use_mlock", "use_mmap",
        "vocab_only",
    )
)  # fmt: skip
IGNORED_IN_MESSAGES = frozenset(
    ("annotations", "cache_control", "id", "name", "reasoning_content", "thinking")
)

RENAMED = {
    "max_completion_tokens": "max_tokens",  # OpenAI
    "n_predict": "max_tokens",  # llama.cpp
    "num_predict": "max_tokens",  # Ollama
    "repeat_penalty": "repetition_penalty",  # llama.cpp and Ollama
}
NO_LIMIT = 2**31 - 1  # max_tokens: as many as the server and the context allow


def has_no_effect(name: str, values: Values, neutral: Neutral) -> bool:
    """Whether the field `name` of `values` has a value without effect."""
    return values[name] in neutral if isinstance(neutral, tuple) else neutral(values)


def refusal(name: str, sentence: str) -> PydanticCustomError:
    """An error about the field `name`; the sentence has no full stop."""
    return PydanticCustomError("refused_field", "{sentence}", {"field": name, "sentence": sentence})


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the names that kgpt uses.

    >>> renamed({"n_predict": 5, "top_k": 3})
    {'top_k': 3, 'max_tokens': 5}
    """
    for other, name in RENAMED.items():
        if other not in values:
            continue
        value = values.pop(other)
        if values.setdefault(name, value) != value:
            raise refusal(other, f"{other} and {name} are the same option; give one of them")
    return values


def usual_values(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with what other servers write for "random", "no limit" and "off" as kgpt has it.

    >>> usual_values({"seed": -1, "top_k": -1, "max_tokens": -1})
    {'top_k': 0, 'max_tokens': 2147483647}
    >>> usual_values({"seed": 2**31 + 5, "top_p": 0})
    {'seed': 5, 'temperature': 0}
    """
    values = dict(values)
    seed, top_p = values.get("seed"), values.get("top_p")
    if type(seed) is int:
        values["seed"] = seed % 2**31
        if seed == -1:
            del values["seed"]
    if values.get("top_k") == -1:
        values["top_k"] = 0
    if values.get("max_tokens") in (-1, -2):
        values["max_tokens"] = NO_LIMIT
    if top_p == 0 and type(top_p) is not bool:
        del values["top_p"]
        values["temperature"] = 0
    if values.get("logit_bias") == []:
        del values["logit_bias"]
    return values
