"""Chat templates of well-known models, shortened, with `{% generation %}` around what is generated.

Most are published without that tag; `without_tags` gives them so.
"""

import re

TAGS = re.compile(r"\{% (end)?generation %\}")


def without_tags(template):
    return TAGS.sub("", template)


def _by_role(header, end, roles=("system", "user"), before="", after=""):
    """A template with one form for all turns; `header` and `end` are Jinja expressions."""
    others = "".join(
        f"{{%- elif message['role'] == '{role}' %}}{{{{- {header.replace('ROLE', role)}"
        f" + message['content'] + {end} + '\\n' }}}}"
        for role in roles
    )
    assistant = header.replace("ROLE", "assistant")
    return (
        before + "{%- for message in messages %}{%- if message['role'] == 'assistant' %}"
        f"{{{{- {assistant} }}}}{{% generation %}}{{{{ message['content'] + {end} }}}}"
        "{% endgeneration %}{{- '\\n' }}" + others + "{%- endif %}{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{- {assistant} }}}}{after}{{%- endif %}}"
    )


def _default_system(text):
    return (
        "{%- if messages[0]['role'] != 'system' %}"
        f"{{{{- '<|im_start|>system\\n{text}<|im_end|>\\n' }}}}{{%- endif %}}"
    )


IM = ("'<|im_start|>ROLE\\n'", "'<|im_end|>'")
ALTERNATES = (
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/...') }}{%- endif %}"
)
LLAMA2 = (
    "{%- if messages[0]['role'] == 'system' %}{%- set turns = messages[1:] %}"
    "{%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{%- else %}{%- set turns = messages %}{%- set system = '' %}{%- endif %}"
    "{%- for message in turns %}" + ALTERNATES + "{%- if message['role'] == 'user' %}"
    "{%- set content = (system if loop.first else '') + message['content'] %}"
    "{{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{%- else %}"
    "{% generation %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endgeneration %}"
    "{%- endif %}{%- endfor %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}"
    "{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=-1) %}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' %}"
    "{%- set content = message.content %}{%- set reasoning = '' %}{%- if '</think>' in content %}"
    "{%- set reasoning = content.split('</think>')[0].split('<think>')[-1] %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{% generation %}{%- if loop.index0 > ns.last %}"
    "{{- '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' }}{%- endif %}"
    "{{- content.lstrip('\n') + '<|im_end|>' }}{% endgeneration %}{{- '\n' }}"
    "{%- else %}{{- message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- endif %}{%- endif %}"
)
MISTRAL = (
    "{{- bos_token }}{%- for message in messages %}" + ALTERNATES + ""
    "{%- if message['role'] == 'user' %}{{- '[INST] ' + message['content'] + '[/INST]' }}"
    "{%- elif message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] | trim + eos_token }}{% endgeneration %}"
    "{%- else %}{{- raise_exception('Only user and assistant roles are supported!') }}"
    "{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}"
    "{{- raise_exception('System role not supported') }}{%- endif %}"
    "{%- for message in messages %}{%- if message['role'] == 'assistant' %}"
    "{{- '<start_of_turn>model\n' }}"
    "{% generation %}{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}"
    "{{- '\n' }}{%- else %}"
    "{{- '<start_of_turn>user\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
)
DEEPSEEK = (
    "{%- set ns = namespace(system='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] %}{%- endif %}"
    "{%- endfor %}{{- bos_token + ns.system }}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{- '<｜User｜>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' %}{{- '<｜Assistant｜>' }}"
    "{%- set content = message['content'].split('</think>')[-1] %}"
    "{% generation %}{{ content + '<｜end▁of▁sentence｜>' }}{% endgeneration %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}"
)
COMMAND_R = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}"
    "{% generation %}{{ message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% endgeneration %}{%- elif message['role'] == 'user' %}"
    "{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + message['content'].strip() }}"
    "{{- '<|END_OF_TURN_TOKEN|>' }}{%- else %}"
    "{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + message['content'] }}"
    "{{- '<|END_OF_TURN_TOKEN|>' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"
)
VICUNA = (  # no special token but the end of the text
    "{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + ' ' }}{%- endif %}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{{- 'USER: ' + message['content'].strip() + ' ' }}"
    "{%- elif message['role'] == 'assistant' %}{{- 'ASSISTANT:' }}"
    "{% generation %}{{ ' ' + message['content'].strip() + eos_token }}{% endgeneration %}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"
)
GENERATION_TEMPLATES = {
    "chatml": _by_role(*IM),
    "smollm2": _by_role(*IM, before=_default_system("You are a helpful assistant.")),
    "qwen2.5": _by_role(*IM, before=_default_system("You are Qwen, created by Alibaba Cloud.")),
    "qwen3": QWEN3,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi3": _by_role("'<|ROLE|>\\n'", "'<|end|>'", after="{%- else %}{{- eos_token }}"),
    "zephyr": _by_role("'<|ROLE|>\\n'", "eos_token"),  # and TinyLlama
    "deepseek": DEEPSEEK,
    "command-r": COMMAND_R,
    "vicuna": VICUNA,
}  # fmt: skip
WITHOUT_SYSTEM = ("mistral", "gemma")  # they reject a system prompt
MORE_SPECIAL = [
    "<｜end▁of▁sentence｜>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>",
]  # fmt: skip
