"""The optional fields of the APIs of OpenAI, vLLM, llama.cpp and Ollama, with values of each."""

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}

# Of each field: values that change nothing or are sampling options, and values that change what is
# asked for in another way.
Fields = dict[str, tuple[list, list]]
OPENAI: Fields = {
    "model": (["fake", ""], []),
    "temperature": ([0, 0.7, 2], []),
    "top_p": ([0, 0.5, 1], []),
    "n": ([1, 2], []),
    "stream": ([False, True], []),
    "stream_options": ([{}, {"include_usage": True, "include_obfuscation": False}], []),
    "stop": ([[], "", "x", ["a", "b"]], []),
    "max_tokens": ([1, 5], []),
    "max_completion_tokens": ([5], []),
    "presence_penalty": ([0, 1.5], []),
    "frequency_penalty": ([0, -1], []),
    "logit_bias": ([{}, {"65": -100}], []),
    "seed": ([-1, 0, 7, 2**63], []),
    "user": (["me"], []),
    "metadata": ([{}, {"a": "b"}], []),
    "store": ([True, False], []),
    "service_tier": (["auto"], []),
    "parallel_tool_calls": ([True], []),
    "prompt_cache_key": (["k"], []),
    "safety_identifier": (["k"], []),
    "prediction": ([{"type": "content", "content": "x"}], []),
    "modalities": ([["text"]], [["text", "audio"]]),
    "audio": ([], [{"voice": "alloy", "format": "wav"}]),
    "reasoning_effort": (["none"], ["high"]),
    "verbosity": (["medium"], ["low"]),
    "web_search_options": ([], [{"search_context_size": "low"}]),
    "functions": ([[]], [[TOOL["function"]]]),
    "function_call": (["none"], [{"name": "f"}]),
    "tools": ([[]], [[TOOL]]),
    "tool_choice": (["none"], []),
    "response_format": ([{"type": "text"}], [{"type": "json_object"}, FORMAT]),
}
OPENAI_CHAT: Fields = {"logprobs": ([False, True], []), "top_logprobs": ([0], [])}
OPENAI_TEXT: Fields = {
    "logprobs": ([False, 0, 2], []),
    "best_of": ([1], [2]),
    "echo": ([False], [True]),
    "suffix": ([""], ["end"]),
}
VLLM: Fields = {
    "top_k": ([-1, 0, 5], []),
    "min_p": ([0, 0.1], []),
    "repetition_penalty": ([1, 1.2], []),
    "min_tokens": ([0, 1], []),
    "length_penalty": ([1.0], []),
    "bad_words": ([[], ["x"]], []),
    "ignore_eos": ([False], [True]),
    "stop_token_ids": ([[]], [[3]]),
    "include_stop_str_in_output": ([False], [True]),
    "skip_special_tokens": ([True], [False]),
    "spaces_between_special_tokens": ([True], []),
    "use_beam_search": ([False], [True]),
    "truncate_prompt_tokens": ([], [5]),
    "prompt_logprobs": ([], [1]),
    "allowed_token_ids": ([], [[65, 66]]),
    "logits_processors": ([[]], [["a.b"]]),
    "priority": ([0, 3], []),
    "request_id": (["r"], []),
    "cache_salt": (["s"], []),
    "return_token_ids": ([False], [True]),
    "return_tokens_as_token_ids": ([False], [True]),
    "vllm_xargs": ([{}], [{"a": 1}]),
    "kv_transfer_params": ([{}], []),
    "guided_json": ([], [SCHEMA]),
    "guided_regex": ([""], ["[ab]{3}"]),
    "guided_choice": ([[]], [["yes", "no"]]),
    "guided_grammar": ([""], ['start: "a"']),
    "guided_decoding_backend": (["xgrammar"], []),
    "structured_outputs": ([{}], [{"regex": "[ab]{3}"}]),
    "structural_tag": ([], ["x"]),
}
VLLM_CHAT: Fields = {
    "add_generation_prompt": ([True], [False]),
    "add_special_tokens": ([False], [True]),
    "documents": ([[]], [[{"title": "a", "text": "b"}]]),
    "chat_template": ([], ["{{ messages }}"]),
    "include_reasoning": ([True], []),
    "mm_processor_kwargs": ([{}], []),
}
VLLM_TEXT: Fields = {"add_special_tokens": ([True], [False]), "prompt_embeds": ([], ["AAAA"])}
LLAMA_CPP: Fields = {
    "n_predict": ([-1, 5], []),
    "top_k": ([40], []),
    "typical_p": ([1.0, 0.9], []),
    "repeat_penalty": ([1.0], []),
    "repeat_last_n": ([-1], []),
    "penalize_nl": ([True], []),
    "mirostat": ([0], [1, 2]),
    "mirostat_tau": ([5.0], []),
    "mirostat_eta": ([0.1], []),
    "dry_multiplier": ([0.0], [0.8]),
    "dry_base": ([1.75], []),
    "dry_allowed_length": ([2], []),
    "dry_penalty_last_n": ([-1], []),
    "dry_sequence_breakers": ([["\n"]], []),
    "dynatemp_range": ([0], [0.5]),
    "dynatemp_exponent": ([1], []),
    "xtc_probability": ([0], [0.5]),
    "xtc_threshold": ([0.1], []),
    "top_n_sigma": ([-1], [1.5]),
    "tfs_z": ([1], [0.9]),
    "samplers": ([], [["top_k", "temperature"]]),
    "min_keep": ([0], [5]),
    "n_keep": ([0, -1], []),
    "n_indent": ([0], [2]),
    "n_probs": ([0], [5]),
    "t_max_predict_ms": ([0], [100]),
    "cache_prompt": ([True, False], []),
    "id_slot": ([-1, 1], []),
    "return_tokens": ([False], [True]),
    "timings_per_token": ([False, True], []),
    "reasoning_format": (["none"], []),
    "image_data": ([[]], [[{"data": "AA", "id": 1}]]),
    "lora": ([[]], [[{"id": 0, "scale": 0.5}]]),
    "grammar": ([""], ['root ::= "a" | "b"']),
    "json_schema": ([], [SCHEMA]),
}
OLLAMA: Fields = {
    "stream": ([True, False], []),
    "keep_alive": (["5m", 0, -1], []),
    "think": ([False], [True, "high"]),
    "format": ([""], ["json", SCHEMA]),
    "logprobs": ([False, True], []),
    "truncate": ([True, False], []),
    "shift": ([True], []),
}
OLLAMA_CHAT: Fields = {"tools": ([[]], [[TOOL]])}
OLLAMA_TEXT: Fields = {
    "raw": ([True, False], []),
    "system": (["", "Be brief."], []),
    "suffix": ([""], ["end"]),
    "template": ([""], ["{{ .Prompt }}"]),
    "context": ([[]], [[1, 2]]),
    "images": ([[]], [["AAAA"]]),
}
OLLAMA_OPTIONS: Fields = {
    "num_predict": ([-2, -1, 5], []),
    "num_ctx": ([2048], []),
    "num_keep": ([4], []),
    "num_gpu": ([1], []),
    "num_thread": ([8], []),
    "use_mmap": ([True], []),
    "temperature": ([0.0, 0.8], []),
    "seed": ([42, -1], []),
    "stop": ([["x"]], []),
    "repeat_penalty": ([1.1], []),
    "mirostat": ([0], [2]),
    "tfs_z": ([1.0], [0.5]),
    "top_n": ([3], []),
}
MESSAGE: Fields = {
    "name": (["me"], []),
    "id": (["msg_1"], []),
    "annotations": ([[]], []),
    "refusal": ([], []),
    "reasoning_content": (["hm"], []),
    "tool_calls": ([[]], []),
    "function_call": ([], [{"name": "f", "arguments": "{}"}]),
    "audio": ([], [{"id": "a"}]),
    "images": ([[]], [["AAAA"]]),
    "prefix": ([False], [True]),
    "cache_control": ([{"type": "ephemeral"}], []),
}
HELLO = [{"role": "user", "content": "Hello!"}]
CHAT = {"messages": HELLO}
TEXT = {"prompt": "a"}
NAMED = {"model": "fake"}
APIS = {
    "openai chat": ("/v1/chat/completions", CHAT, OPENAI | OPENAI_CHAT),
    "openai text": ("/v1/completions", TEXT, OPENAI | OPENAI_TEXT),
    "vllm chat": ("/v1/chat/completions", CHAT, OPENAI | VLLM | VLLM_CHAT),
    "vllm text": ("/v1/completions", TEXT, OPENAI | VLLM | VLLM_TEXT),
    "llama.cpp chat": ("/v1/chat/completions", CHAT, OPENAI | LLAMA_CPP),
    "llama.cpp text": ("/v1/completions", TEXT, LLAMA_CPP),
    "ollama chat": ("/api/chat", CHAT | NAMED, OLLAMA | OLLAMA_CHAT),
    "ollama text": ("/api/generate", TEXT | NAMED, OLLAMA | OLLAMA_TEXT),
}
OTHER_NAMES = {"max_completion_tokens", "n_predict", "num_predict", "repeat_penalty"}
