"""Malformed conversations: each kind is refused by file and line, or left out and counted."""

import json

import numpy as np
import pytest

from kgpt.data.prepare import prepare, train_tokenizer
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError
from kgpt.text.special_tokens import SpecialTokens
from kgpt.text.tokenizer import Tokenizer
from tests.cli.running import kgpt
from tests.peers.generation_templates import GENERATION_TEMPLATES

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes!"}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD = {"messages": [USER, ASSISTANT]}
INVALID = {
    "half a line": ('{"messages": [{"role"', "is not JSON; each line must be one object"),
    "no object": ("[1, 2]", "is no JSON object"),
    "unknown role": ([USER, ASSISTANT | {"role": "narrator"}], "the role 'narrator' is unknown"),
    "empty turn": ([USER, ASSISTANT | {"content": " \n"}], "message 2, of assistant, is empty"),
    "empty question": ([USER | {"content": ""}, ASSISTANT], "message 1, of user, is empty"),
    "no assistant": ([USER], "there is no message of the assistant to learn from"),
    "weight 0": ([USER, ASSISTANT | {"weight": 0}], "no message of the assistant to learn from"),
    "no messages": ([], "messages must be a list"),
    "a text": ("hi", "messages must be a list"),
    "a number": ([USER, ASSISTANT | {"content": 3}], "content of a message is text, not int"),
    "no role": ([{"content": "x"}], "messages must be a list"),
    "an image": ([{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT], "only text is"),
    "tool calls": ([USER, ASSISTANT | {"tool_calls": [{"id": "a"}]}], "a message has tool calls"),
    "neither": ({"title": "x"}, "no text in the field 'text'"),
}  # fmt: skip


def line(value):
    """A line of a file: raw text, a row, or the messages of one."""
    if isinstance(value, str) and value[:1] in "{[":
        return value
    return json.dumps(value if isinstance(value, dict) else {"messages": value})


def write(path, lines):
    path.write_text("".join(f"{text}\n" for text in lines))
    return str(path)


def templated(name):
    tokenizer = Tokenizer.of_bytes(["<s>", "</s>", "<start_of_turn>", "<end_of_turn>"])
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer.special_tokens = SpecialTokens(tokens, frozenset(), GENERATION_TEMPLATES[name])
    return tokenizer


def masked_text(folder, split="train"):
    data = TokenDataset(folder)
    stream, mask = data.tokens(split), data.loss_mask(split)
    start = np.array([0])
    ids, learned = stream.windows(start, len(stream))[0], mask.windows(start, len(stream))[0]
    return data.tokenizer.decode(ids[learned.astype(bool)])


@pytest.mark.parametrize("place", [0, 1, 9])
@pytest.mark.parametrize("kind", INVALID)
def test_each_kind_is_refused_by_line_or_left_out(tmp_path, kind, place):
    bad, reason = INVALID[kind]
    lines = [json.dumps(GOOD)] * 10
    lines.insert(place, line(bad))
    source, out = write(tmp_path / "a.jsonl", lines), tmp_path / "out"
    with pytest.raises(DataError, match=f"a.jsonl, line {place + 1}\\b.*{reason}"):
        prepare(Corpus([source]), Tokenizer.of_bytes(), out)
    assert not out.exists() and [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    corpus = Corpus([source], skip_invalid=True)
    manifest = prepare(corpus, Tokenizer.of_bytes(), out)
    assert manifest.invalid_rows == corpus.invalid.count == 1
    assert reason.split(".*")[0] in corpus.invalid.first[0]
    assert sum(info.documents for info in manifest.splits.values()) == 10
    assert masked_text(out) == "Yes!<|im_end|>" * manifest.splits["train"].documents


def test_an_empty_system_prompt_is_none(tmp_path):
    rows = [{"messages": [SYSTEM | {"content": ""}, USER, ASSISTANT]}, GOOD]
    source = write(tmp_path / "a.jsonl", map(json.dumps, rows))
    assert [document.messages for document in Corpus([source]).documents()] == [
        GOOD["messages"]
    ] * 2


IGNORES = (
    "{% for m in messages %}{% if m.role != 'system' %}"
    "{{ '<s>' + m.role + ':' + m.content + '</s>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("gemma", "template rejects the messages: System role not supported"),
        ("mistral", "rejects the messages: Conversation roles must alternate"),
        (IGNORES, "chat template leaves system prompts out"),
    ],
)
def test_a_system_prompt_that_the_template_has_not_is_named(tmp_path, template, reason):
    lines = [json.dumps(GOOD)] * 3 + [json.dumps({"messages": [SYSTEM, USER, ASSISTANT]})]
    source, out = write(tmp_path / "a.jsonl", lines), tmp_path / "out"
    tokenizer = templated("gemma" if template is IGNORES else template)
    if template is IGNORES:
        tokenizer.special_tokens = SpecialTokens({}, frozenset(), IGNORES)
    with pytest.raises(DataError, match=f"a.jsonl, line 4: .*{reason}"):
        prepare(Corpus([source]), tokenizer, out)
    assert not out.exists()
    manifest = prepare(Corpus([source], skip_invalid=True), tokenizer, out)
    assert manifest.invalid_rows == 1
    assert sum(info.documents for info in manifest.splits.values()) == 3


@pytest.mark.parametrize("truncate", ["keep-start", "skip"])
def test_long_conversations_are_cut_or_left_out_and_counted(tmp_path, truncate):
    """With a token a byte, the limit is in the second answer and in the third question."""
    answers = ["a" * 4, "b" * 40, "c" * 90]
    asks = ["x", "y", "z" * 99]
    rows = [
        {"prompt": ask, "completion": answer} for ask, answer in zip(asks, answers, strict=True)
    ]
    source, out = write(tmp_path / "a.jsonl", map(json.dumps, rows)), tmp_path / "out"
    manifest = prepare(
        Corpus([source]), Tokenizer.of_bytes(), out, 0, max_length=60, truncate=truncate
    )
    data = TokenDataset(out)
    sizes = np.diff(data.document_offsets("train").astype(int), append=len(data.tokens("train")))
    cut = truncate == "keep-start"
    assert (manifest.truncated, manifest.too_long) == (int(cut), 1 if cut else 2)
    assert sizes.max() <= 60 and len(sizes) == 1 + cut
    assert masked_text(out).startswith("aaaa<|im_end|>" + "b" * cut)
    assert len(manifest.notes) == 1 + cut


def test_rows_of_every_file_are_checked_and_the_first_five_shown(tmp_path, capsys):
    write(tmp_path / "a.jsonl", [json.dumps(GOOD), "{", *[json.dumps({"messages": []})] * 6])
    (tmp_path / "b.csv").write_text("prompt,completion\nHi,Yes!\nHi\nHi,\n")
    arguments = ("data", "prepare", tmp_path, "--out", tmp_path / "out", "--tokenizer", "byte")
    code, _, error = kgpt(capsys, *arguments)
    assert code == 1 and "a.jsonl, line 2 is not JSON" in error
    assert not (tmp_path / "out").exists()
    code, out, error = kgpt(capsys, *arguments, "--skip-invalid")
    assert code == 0
    lines = error[error.index("Rows left out: 9") :].splitlines()
    assert [text.split(":")[0].strip() for text in lines[1:7]] == [
        "a.jsonl, line 2 is not JSON; each line must be one object.",
        *(f"a.jsonl, line {n}" for n in (3, 4, 5, 6)), "and 4 more",
    ]  # fmt: skip
    assert "9 rows that cannot be used, left out" in out
    assert TokenDataset(tmp_path / "out").manifest.splits["train"].documents == 1


def test_a_tokenizer_is_not_trained_on_what_is_left_out(tmp_path):
    rows = [GOOD, {"messages": [USER, {"role": "narrator", "content": "q"}]}, GOOD]
    source = write(tmp_path / "a.jsonl", map(json.dumps, rows))
    corpus = Corpus([source], skip_invalid=True)
    tokenizer = train_tokenizer(corpus, "char", 0, 0, lambda read: None)
    assert tokenizer.token_to_id("Y") is not None and tokenizer.token_to_id("q") is None
