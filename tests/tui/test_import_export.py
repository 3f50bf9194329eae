"""Conversations of other software are read as they are meant."""

import json
from pathlib import Path

import pytest

from kgpt.errors import KgptError, UsageError
from kgpt_tui.chat.conversation import Conversation
from kgpt_tui.chat.import_export import export, read_conversation
from tests.tui.chatting import Chat, chat
from tests.tui.driving import said

PARTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]


def read(path: Path, body: object, mark: bytes = b"") -> tuple[str, list[tuple[str, str]]]:
    path.write_bytes(mark + json.dumps(body).encode())
    found = read_conversation(path)
    return found.system, [(message.role, message.content) for message in found.path]


def test_null_contents_parts_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": None},
        {"role": "assistant", "content": PARTS, "refusal": None},
    ]
    expected = ("Be brief.", [("user", ""), ("assistant", "Hello!")])
    assert read(tmp_path / "a.json", messages) == expected
    assert read(tmp_path / "a.json", {"messages": messages}, b"\xef\xbb\xbf") == expected


def test_sharegpt_turns_are_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
    assert read(tmp_path / "a.json", turns) == ("", [("user", "Hi"), ("assistant", "Hello!")])


def test_a_role_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KgptError, match="no conversation that can be read"):
        read(tmp_path / "a.json", [{"role": "narrator", "content": "x"}])


@pytest.mark.parametrize("name", ["a.md", "a.json"])
def test_a_file_is_replaced_only_if_that_is_wanted(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("mine")
    with pytest.raises(UsageError, match="exists; choose another name, or .* /export! "):
        export(Conversation(title="T"), file)
    assert file.read_text() == "mine"
    export(Conversation(title="T"), file, replace=True)
    assert "T" in file.read_text()


@pytest.mark.parametrize("name", ["chat.md", "chat.json"])
def test_a_chat_is_written_to_a_file_and_read_again(tmp_path: Path, name: str) -> None:
    file = tmp_path / name

    async def script(chat: Chat) -> None:
        await chat.ask("What?\n<!-- kgpt:user -->")
        before = chat.texts
        await chat.write(f"/export {file}")
        await chat.until(file.exists)
        file.write_text("mine")
        await chat.write(f"/export {file}")
        await chat.until(lambda: "exists; choose another name" in said(chat.app))
        assert file.read_text() == "mine"
        await chat.write(f"/export! {file}")
        await chat.until(lambda: file.read_text() != "mine")
        await chat.write("/new")
        await chat.until(lambda: not chat.path)
        await chat.write(f"/import {file}")
        await chat.until(lambda: chat.texts == before)

    chat(script, tmp_path)


def test_a_file_that_is_no_chat_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"format": "kgpt-conversation", "messages": 3}))

    async def script(chat: Chat) -> None:
        await chat.write(f"/import {tmp_path / 'a.json'}")
        await chat.until(lambda: "no conversation" in said(chat.app))
        await chat.write(f"/import {tmp_path / 'none.md'}")
        await chat.until(lambda: "Could not read" in said(chat.app))

    chat(script, tmp_path)
