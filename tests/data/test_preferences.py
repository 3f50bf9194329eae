"""Pairs, labelled completions and prompts: each form is read, and encoded as it is generated."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.preferences import (
    LabeledCompletion,
    PreferencePair,
    encode_completion,
    encode_pair,
    encode_prompt,
    parse_labeled,
    parse_preference,
    parse_prompt,
    read_labeled,
    read_preferences,
    read_prompts,
)
from kgpt.errors import DataError, UsageError
from kgpt.text.chat_template import ChatMLTemplate
from kgpt.text.tokenizer import Tokenizer

ASK = [{"role": "user", "content": "Why?"}]
GOOD = [{"role": "assistant", "content": "Because."}]
BAD = [{"role": "assistant", "content": "No."}]
AS_MESSAGES = PreferencePair(ASK, GOOD, BAD)
TOKENIZER = Tokenizer.train_bpe(["user: why? assistant: because, no\n" * 9], vocab_size=300)
CHATML = ChatMLTemplate(TOKENIZER)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
         PreferencePair("Why?", "Because.", "No.")),
        ({"prompt": ASK, "chosen": GOOD, "rejected": BAD}, AS_MESSAGES),
        ({"prompt": ASK, "chosen": "Because.", "rejected": "No."}, AS_MESSAGES),
        ({"prompt": "Why?", "chosen": GOOD, "rejected": BAD}, AS_MESSAGES),
        ({"chosen": ASK + GOOD, "rejected": ASK + BAD}, AS_MESSAGES),
        ({"prompt": "Why?", "chosen": ASK + GOOD, "rejected": ASK + BAD}, AS_MESSAGES),
        ({"chosen": ASK + GOOD + ASK + GOOD, "rejected": ASK + GOOD + ASK + BAD},
         PreferencePair(ASK + GOOD + ASK, GOOD, BAD)),
        ({"prompt": ASK, "chosen": GOOD + ASK + GOOD, "rejected": GOOD + ASK + BAD},
         PreferencePair(ASK, GOOD + ASK + GOOD, GOOD + ASK + BAD)),
        ({"chosen": ASK + GOOD, "rejected": ASK + GOOD + ASK + BAD},
         PreferencePair(ASK, GOOD, GOOD + ASK + BAD)),
        ({"system": "Be brief.", "prompt": "Why?", "chosen": "Because.", "rejected": "No."},
         PreferencePair([{"role": "system", "content": "Be brief."}, *ASK], GOOD, BAD)),
    ],
)  # fmt: skip
def test_every_form_of_a_pair_is_read(row, pair):
    assert parse_preference(row) == pair


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x", "chosen": "y"}, r"no rejected \(its fields: prompt, chosen\)"),
        ({"chosen": "y", "rejected": "z"}, "no prompt"),
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "are the same"),
        ({"prompt": "x", "chosen": "y", "rejected": " \n"}, "rejected is empty"),
        ({"prompt": "", "chosen": "y", "rejected": "z"}, "prompt is empty"),
        ({"prompt": "x", "chosen": GOOD, "rejected": "z"}, "must both be texts, or both lists"),
        ({"prompt": "x", "chosen": 3, "rejected": "z"}, "chosen must be a text or a list"),
        ({"prompt": "x", "chosen": [], "rejected": BAD}, "messages must be a list"),
        ({"prompt": GOOD, "chosen": GOOD, "rejected": BAD}, "last message of a prompt must be"),
        ({"chosen": ASK + GOOD, "rejected": ASK}, "begin and end with a message of the assistant"),
        ({"chosen": ASK + GOOD, "rejected": [{"role": "user", "content": "Who?"}, *GOOD]},
         "last message of a prompt"),
        ({"prompt": "x", "chosen": [{"role": "elf", "content": "y"}], "rejected": BAD},
         "role 'elf' is unknown"),
        ({"prompt": "x", "chosen": [{"role": "assistant", "content": ""}], "rejected": BAD},
         "a message of chosen is empty"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused_with_the_reason(row, reason):
    with pytest.raises(ValueError, match=reason):
        parse_preference(row)


@pytest.mark.parametrize(
    ("label", "meaning"), [(True, True), (False, False), (1, True), ("False", False), ("1", True)]
)
def test_a_label_is_true_or_false(label, meaning):
    row = {"prompt": "Why?", "completion": "Because.", "label": label}
    assert parse_labeled(row) == LabeledCompletion("Why?", "Because.", meaning)
    as_messages = LabeledCompletion(ASK, GOOD, meaning)
    assert parse_labeled(row | {"prompt": ASK}) == as_messages
    assert parse_labeled(row | {"completion": GOOD}) == as_messages


@pytest.mark.parametrize("label", [None, "good", 2, [True]])
def test_another_label_is_refused(label):
    with pytest.raises(ValueError, match="label must be true or false"):
        parse_labeled({"prompt": "Why?", "completion": "No.", "label": label})


def test_a_prompt_keeps_the_other_columns_of_its_row():
    found = parse_prompt({"prompt": "What is 1 + 1?", "answer": 2})
    assert (found.prompt, found.columns) == ("What is 1 + 1?", {"answer": 2})
    assert parse_prompt({"messages": ASK + GOOD + ASK + GOOD}).prompt == ASK + GOOD + ASK
    with pytest.raises(ValueError, match="there is no prompt"):
        parse_prompt({"text": "x"})


def test_files_are_read_in_order_and_a_bad_line_is_named_or_left_out(tmp_path):
    good = {"prompt": "x", "chosen": "y", "rejected": "z"}
    files = write(tmp_path / "a.jsonl", [good, {"prompt": "x"}, good | {"chosen": "w"}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: there is no chosen"):
        list(read_preferences(files))
    invalid = InvalidRows(skip=True)
    assert [pair.chosen for pair in read_preferences(files, invalid)] == ["y", "w"]
    assert invalid.count == 1 and "a.jsonl, line 2" in invalid.notes[1]
    labeled = write(tmp_path / "b.jsonl", [{"prompt": "x", "completion": "y", "label": True}])
    assert [row.label for row in read_labeled(labeled)] == [True]
    assert [row.prompt for row in read_prompts([*files, *labeled])] == ["x"] * 4


def test_a_text_is_no_file_of_rows(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="is a text; give files of rows"):
        list(read_preferences([str(tmp_path / "a.txt")]))


CONTENT = st.text(min_size=1).filter(str.strip)


@given(CONTENT, CONTENT, CONTENT)
def test_in_a_template_a_completion_is_what_the_assistant_generates(prompt, chosen, rejected):
    for pair in (
        PreferencePair(prompt, chosen, rejected),
        PreferencePair([{"role": "user", "content": prompt}],
                       [{"role": "assistant", "content": chosen}],
                       [{"role": "assistant", "content": rejected}]),
    ):  # fmt: skip
        prompt_ids, *completions = encode_pair(pair, TOKENIZER, CHATML)
        header = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        assert TOKENIZER.decode(prompt_ids) == header
        assert prompt_ids == encode_prompt(pair.prompt, TOKENIZER, CHATML)
        for ids, text in zip(completions, (chosen, rejected), strict=True):
            assert ids[-1] == TOKENIZER.token_to_id("<|im_end|>")
            assert ids[:-1] == TOKENIZER.encode(text)


@given(CONTENT, CONTENT, CONTENT)
def test_without_a_template_a_pair_is_plain_text_and_its_end(prompt, chosen, rejected):
    pair = encode_pair(PreferencePair(prompt, chosen, rejected), TOKENIZER, None)
    for ids, text in ((pair.chosen_ids, chosen), (pair.rejected_ids, rejected)):
        assert [*pair.prompt_ids, *ids] == [*TOKENIZER.encode(prompt + text), TOKENIZER.eos_id]
    whole = TOKENIZER.encode(prompt)
    assert pair.prompt_ids == whole[: len(pair.prompt_ids)]


@pytest.mark.parametrize("max_length", [1, 12, 14, 20, 1000])
def test_a_pair_is_cut_at_its_end(max_length):
    whole = encode_pair(AS_MESSAGES, TOKENIZER, CHATML)
    cut = encode_pair(AS_MESSAGES, TOKENIZER, CHATML, max_length)
    assert cut.prompt_ids == whole.prompt_ids[:max_length]
    assert cut.prompt_ids + cut.chosen_ids == (whole.prompt_ids + whole.chosen_ids)[:max_length]
    rejected = whole.rejected_ids[: max(0, max_length - len(whole.prompt_ids))]
    assert cut.rejected_ids == rejected
    one = encode_completion(ASK, GOOD, TOKENIZER, CHATML, max_length)
    assert tuple(one) == (cut.prompt_ids, cut.chosen_ids)


def test_messages_need_a_template():
    with pytest.raises(UsageError, match="has no chat template, so prompts and completions must"):
        encode_pair(AS_MESSAGES, TOKENIZER, None)
