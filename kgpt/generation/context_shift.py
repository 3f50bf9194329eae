"""What happens when a text outgrows the model's context: one rule for tokens, one for chats."""

from __future__ import annotations

from kgpt.config import ModelConfig
from kgpt.text.chat_template import Chat


def tokens_kept(config: ModelConfig, max_context: int) -> int:
    """How many of the newest tokens are prefilled again when a sequence outgrows the context.

    Rotary models keep the whole context, since their cache is a ring buffer. Models with absolute
    positions keep half of it, so that there is room to go on.
    """
    return max_context if config.position == "rotary" else max(1, config.max_length // 2)


def encode_chat(chat_template: Chat, messages: list[dict[str, str]], max_tokens: int) -> list[int]:
    """The prompt ids of a chat, without its oldest turns as long as it exceeds `max_tokens`.

    The system message and the newest message are never dropped.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system) :]
    while True:
        ids = chat_template.encode(system + turns, add_generation_prompt=True)[0]
        if len(ids) <= max_tokens or len(turns) <= 1:
            return ids
        turns = turns[2:] if len(turns) > 2 else turns[-1:]
