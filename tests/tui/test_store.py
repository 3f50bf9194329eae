"""Conversations on disk: trees come back whole, searches find, faults lose nothing."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.protocol import TokenInfo, TopLogprob
from kgpt_tui.chat.conversation import Conversation, Message
from kgpt_tui.chat.migrations import STEPS, migrate
from kgpt_tui.chat.store import Store, StoreError
from tests.tui.chatting import conversation

LEGACY = Path(__file__).parents[1] / "legacy" / "chats.sqlite"  # made by version 2 of the store
CANDIDATES = (TopLogprob(3, " a", b" a", -0.5, 0.7), TopLogprob(9, "\ud800", b"\xff", -2.0))
TOKEN = TokenInfo(3, " a", b" a", -0.5, 0.7, CANDIDATES)


def save(store: Store, made: Conversation) -> Conversation:
    store.save(made, made.messages.values())
    return made


# What may happen to a tree: answer the leaf, alternative to it, walk, remove.
STEP = st.tuples(st.sampled_from(["add", "sibling", "walk", "remove"]), st.integers(-2, 2))


@given(st.lists(STEP, max_size=30))
def test_a_tree_stays_a_tree(steps):
    made = conversation("root")
    for name, number in steps:
        if name == "add" or not made.path:
            made.add(Message("user", f"{number}", made.leaf))
        elif name == "sibling":
            made.add(Message("user", "other", made.path[-1].parent))
        elif name == "walk":
            chosen = made.path[number % len(made.path)]
            assert made.walk(chosen, number) in made.path
        else:
            gone = made.remove(made.path[-1])
            assert not {each.id for each in gone} & set(made.messages)
        path = made.path
        assert all(message in made.siblings(message) for message in path)
        assert [m.parent for m in path] == [None, *(m.id for m in path[:-1])][: len(path)]
        assert not path or path[-1].id == made.leaf
        assert {m.parent for m in made.messages.values()} <= {None, *made.messages}


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6))
def test_a_conversation_comes_back_as_it_was(texts):
    store = Store(None)
    made = conversation(*texts)
    made.path[-1].tokens = [TOKEN]
    loaded = store.load(save(store, made).id)
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    assert [message.content for message in loaded.path] == clean
    assert loaded.path[-1].tokens == [TOKEN]
    assert loaded.leaf == made.leaf


def test_search_finds_words_and_titles_and_not_what_is_deleted():
    store = Store(None)
    fox = save(store, conversation("The quick brown fox", "jumps", title="Animals"))
    save(store, conversation("Nothing here", title="Else"))
    assert [e.id for e in store.entries("brown qui")] == [fox.id]
    assert [e.id for e in store.entries("anim")] == [fox.id]
    assert "fox" in store.entries("fox")[0].snippet
    assert store.entries('"') == store.entries("-x OR *") == []
    store.delete(fox.id)
    assert store.entries("brown") == []
    store.restore(fox.id)
    assert len(store.entries("brown")) == 1


def test_search_follows_what_is_changed_and_removed():
    store = Store(None)
    made = save(store, conversation("alpha", "beta"))
    made.path[1].content = "gamma"
    store.save(made, [made.path[1]])
    assert store.entries("beta") == [] and store.entries("gamma")
    store.remove_messages(made, made.remove(made.path[1]))
    assert store.entries("gamma") == []


def test_pinned_ones_come_first():
    store = Store(None)
    old, new = save(store, conversation("a")), save(store, conversation("b"))
    store.pin(old.id, True)
    assert [e.id for e in store.entries()] == [old.id, new.id]


def test_a_locked_database_is_a_sentence_and_saves_later(tmp_path):
    file = tmp_path / "chats.db"
    store, made = Store(file), conversation("kept")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="tried again"):
        save(store, made)
    other.execute("COMMIT")
    save(store, made)
    assert Store(file).load(made.id).path[0].content == "kept"


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = Store(blocked / "chats.db")
    assert "cannot be kept" in store.problem
    save(store, conversation("still works"))
    assert store.entries("works")


def test_a_damaged_file_is_a_sentence(tmp_path):
    file = tmp_path / "chats.db"
    file.write_bytes(b"no database at all" * 100)
    assert "cannot be kept" in Store(file).problem
    assert file.read_bytes().startswith(b"no database")


def test_a_newer_database_is_left_alone(tmp_path):
    file = tmp_path / "chats.db"
    Store(file).close()
    with sqlite3.connect(file) as database:
        database.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    assert "newer kgpt" in Store(file).problem


def test_each_version_migrates_to_the_latest():
    for version in range(len(STEPS)):
        database = sqlite3.connect(":memory:", isolation_level=None)
        assert migrate(database, STEPS[:version]) == ""
        assert migrate(database) == ""
        assert database.execute("PRAGMA user_version").fetchone()[0] == len(STEPS)


def test_a_database_of_the_version_before_is_migrated_with_its_tokens(tmp_path):
    """Version 2: the column `layout`, tokens with `top` and `filtered`, sampling with `banned`."""
    file = tmp_path / "chats.db"
    shutil.copy(LEGACY, file)
    store = Store(file)
    assert store.problem == ""
    loaded, text = store.load(1), store.load(2)
    assert loaded.sampling == {"temperature": 0.5, "bad_words": ["sun"]}
    assert (loaded.mode, loaded.draft, loaded.pinned) == ("chat", "and the sea?", True)
    assert (text.mode, text.path[0].content) == ("text", "Once upon a time")
    token, unsampled = loaded.messages[12].tokens
    assert (token.id, token.text, token.bytes, token.logprob) == (3, " is", b" is", -0.5)
    assert [each.sampling_prob for each in (token, unsampled)] == [0.7, None]
    assert [top.text for top in token.top_logprobs] == [" is", " [/b]", "\ufffd"]
    assert [top.sampling_prob for top in token.top_logprobs] == [0.7, 0.05, None]
    assert store.entries("moon")[0].id == 1
    assert Store(file).load(1) == loaded


WRITER = """
import sys, pathlib
from kgpt_tui.chat.store import Store
from kgpt.protocol import TokenInfo, TopLogprob
from kgpt_tui.chat.conversation import Conversation, Message
store = Store(pathlib.Path(sys.argv[1]))
made = Conversation(title="t")
for number in range(100_000):
    made.add(Message("user", f"message {number} " * 50, made.leaf))
    store.save(made, [made.path[-1]] if number < 50 else [made.messages[made.leaf]])
    print(number, flush=True)
"""


def test_a_writer_killed_in_the_middle_loses_nothing_it_had_saved(tmp_path):
    file = tmp_path / "chats.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True
    )
    said = [writer.stdout.readline() for _ in range(30)]
    time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.read().splitlines(keepends=True)
    writer.wait()
    written = int([line for line in said if line.endswith("\n")][-1])
    store = Store(Path(file))
    loaded = store.load(store.entries()[0].id)
    assert len(loaded.path) in (written + 1, written + 2)
    assert sqlite3.connect(file).execute("PRAGMA integrity_check").fetchone() == ("ok",)
