"""Assistant masks equal those of transformers, in the templates of well-known models.

transformers needs `{% generation %}` in a template; kgpt finds the same tokens without.
"""

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

transformers = pytest.importorskip("transformers")

from tokenizers import AddedToken  # noqa: E402

from kgpt.text.chat_template import JinjaChatTemplate  # noqa: E402
from kgpt.text.special_tokens import SpecialTokens  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402
from tests.peers.generation_templates import (  # noqa: E402
    GENERATION_TEMPLATES,
    MORE_SPECIAL,
    WITHOUT_SYSTEM,
    without_tags,
)
from tests.peers.templates import SPECIAL  # noqa: E402
from tests.peers.test_tokenizers import KINDS  # noqa: E402

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM = {"role": "system", "content": "Be brief, 友よ."}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


CHATS = {
    "one turn": [user("What is 1 < 2?"), assistant("True, indeed.")],
    "several": [user("Why?"), assistant("So."), user("So?"), assistant("So."), user("Bye")],
    "system": [SYSTEM, user("Hi"), assistant("Hello!"), user("Yes?"), assistant("No")],
    "equal texts": [user("Yes"), assistant("Yes"), user("assistant\nYes"), assistant("Yes")],
    "multi-byte": [user("naïve 😀"), assistant("👩‍👩‍👧 café 🏳️‍🌈"), user("é"), assistant("é🙂")],
    "spaces": [user("a\n\n  "), assistant("\n\n  b  \n"), user(" c"), assistant(" d\n\n")],
    "reasoning": [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"),
                  assistant("<think>\nwell\n</think>\n\nd")],
    "digits": [user("1"), assistant("2"), user("3"), assistant("45")],
}  # fmt: skip


@cache
def tokenizers_of(kind):
    """The same tokenizer as transformers' and as ours."""
    inner = KINDS[kind]()
    inner.add_special_tokens([AddedToken(token, special=True) for token in MORE_SPECIAL])
    peer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **TOKENS)
    return peer, inner.to_str()


@cache
def ours(kind, template):
    from tokenizers import Tokenizer as Inner

    tokenizer = Tokenizer(Inner.from_str(tokenizers_of(kind)[1]))
    tokenizer.special_tokens = SpecialTokens(TOKENS, frozenset(), template)
    return JinjaChatTemplate(tokenizer)


def expected(kind, template, messages):
    made = tokenizers_of(kind)[0].apply_chat_template(
        messages, chat_template=template, return_assistant_tokens_mask=True, return_dict=True
    )
    return made["input_ids"], [bool(value) for value in made["assistant_masks"]]


def check(kind, name, messages):
    template = GENERATION_TEMPLATES[name]
    ids, mask = expected(kind, template, messages)
    assert any(mask)
    for mine in (template, without_tags(template)):
        assert ours(kind, mine).encode(messages) == (ids, mask)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", GENERATION_TEMPLATES)
@pytest.mark.parametrize("kind", ["gpt2", "llama2"])
def test_the_assistant_mask_equals_transformers(kind, name, chat):
    if not (chat == "system" and name in WITHOUT_SYSTEM):
        check(kind, name, CHATS[chat])


BREAKING = re.compile("|".join(map(re.escape, [*SPECIAL, *MORE_SPECIAL, "think>"])))
TEXT = st.text(
    st.sampled_from("ab1 \n\t.😀é̀友") | st.characters(exclude_categories=["Cs", "Cn"]), min_size=1
).filter(lambda text: text.strip() and not BREAKING.search(text))


@pytest.mark.parametrize("name", GENERATION_TEMPLATES)
@settings(max_examples=25)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_the_assistant_mask_of_any_text_equals_transformers(name, turns):
    messages = [m for ask, answer in turns for m in (user(ask), assistant(answer))]
    check("qwen2", name, messages)


@pytest.mark.parametrize("name", GENERATION_TEMPLATES)
def test_a_turn_of_weight_zero_is_left_out_with_and_without_tags(name):
    """The masks of two conversations in which each turn is left out once make up the whole."""
    template = GENERATION_TEMPLATES[name]
    messages = CHATS["several"]
    for mine in (template, without_tags(template)):
        chat = ours("gpt2", mine)
        whole = chat.encode(messages)
        masks = []
        for left_out in (1, 3):
            part = [m | {"weight": 0} if i == left_out else m for i, m in enumerate(messages)]
            ids, mask = chat.encode(part)
            assert ids == whole[0] and any(mask)
            masks.append(mask)
        assert [a or b for a, b in zip(*masks, strict=True)] == whole[1]
        assert not any(a and b for a, b in zip(*masks, strict=True))
