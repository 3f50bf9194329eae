"""Preference pairs are the token ids of trl's DPOTrainer, up to the end of the assistant's turn."""

from types import SimpleNamespace

import pytest

pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from trl.trainer.dpo_trainer import DPOTrainer  # noqa: E402

from kgpt.data.preferences import encode_pair, parse_preference  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402
from tests.peers.generation_templates import GENERATION_TEMPLATES, without_tags  # noqa: E402
from tests.peers.test_assistant_mask import ours, tokenizers_of  # noqa: E402

ASK = [{"role": "user", "content": "What is\n1 < 2? 😀"}]
TRUE = [{"role": "assistant", "content": "True, indeed."}]
FALSE = [{"role": "assistant", "content": " False\n\nnaïve"}]
ROWS = {
    "messages": {"prompt": ASK, "chosen": TRUE, "rejected": FALSE},
    "whole conversations": {"chosen": ASK + TRUE, "rejected": ASK + FALSE},
    "several turns": {"prompt": ASK + TRUE + ASK, "chosen": FALSE, "rejected": TRUE},
}
TEXTS = {"prompt": "What is\n1 < 2?", "chosen": " True 😀", "rejected": "\nFalse"}


def by_trl(kind, row, template=None):
    peer = tokenizers_of(kind)[0]
    peer.chat_template = template
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None)
    rows = DPOTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=peer), datasets.Dataset.from_list([row]), peer, arguments, "x"
    )
    return [rows[0][name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", GENERATION_TEMPLATES)
def test_pairs_in_a_template_are_trls(name, row):
    template = without_tags(GENERATION_TEMPLATES[name])
    expected = by_trl("gpt2", ROWS[row], template)
    chat = ours("gpt2", template)
    pair = encode_pair(parse_preference(ROWS[row]), chat.tokenizer, chat)
    assert pair.prompt_ids == expected[0]
    for mine, theirs in zip(pair[1:], expected[1:], strict=True):
        assert mine and mine == theirs[: len(mine)]
        rest = theirs[len(mine) :]  # what the template renders after the end of the turn
        assert chat.tokenizer.decode(rest).strip() in ("", "</s>")
        assert mine[-1] in chat.tokenizer.special_by_id


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "qwen2"])
def test_pairs_of_texts_are_trls(kind):
    expected = by_trl(kind, TEXTS)
    tokenizer = Tokenizer(tokenizers_of(kind)[0].backend_tokenizer)
    pair = encode_pair(parse_preference(TEXTS), tokenizer, None)
    ends = {tokenizer.token_to_id("</s>"), tokenizer.eos_id}
    for mine, theirs in zip(pair, expected, strict=True):
        assert [i for i in mine if i not in ends] == [i for i in theirs if i not in ends]
    assert all(ids[-1] == tokenizer.eos_id for ids in pair[1:])
