"""LlamaIndex's `OpenAILike`, unmodified: complete, chat and stream."""

import pytest

openai_like = pytest.importorskip("llama_index.llms.openai_like")

pytestmark = pytest.mark.proof


@pytest.fixture
def model(url):
    def make(is_chat_model):
        return openai_like.OpenAILike(
            model="tiny", api_base=url, api_key="none", max_tokens=12, max_retries=0,
            context_window=2048, is_chat_model=is_chat_model, temperature=0.0,
        )  # fmt: skip

    return make


@pytest.mark.parametrize("is_chat_model", [False, True])
def test_complete(model, is_chat_model):
    llm = model(is_chat_model)
    whole = llm.complete("Once upon")
    assert whole.text
    assert list(llm.stream_complete("Once upon"))[-1].text == whole.text


def test_chat(model):
    from llama_index.core.llms import ChatMessage

    llm, messages = model(True), [ChatMessage("Be brief.", role="system"), ChatMessage("Hello!")]
    whole = llm.chat(messages)
    assert whole.message.content
    assert list(llm.stream_chat(messages))[-1].message.content == whole.message.content
    assert llm.chat([*messages, whole.message, ChatMessage("Go on.")]).message.content
