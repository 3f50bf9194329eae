"""Conversations on disk, in SQLite: trees of messages, full-text search, undoable deletion.

A database that cannot be opened is replaced by one in memory, and `problem` says so. A database
that is locked for the moment raises `StoreError`; the caller keeps what it has and tries again.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from kgpt.errors import KgptError
from kgpt_tui.client import Alternative, Token
from kgpt_tui.migrations import migrate
from kgpt_tui.tree import Conversation, Message

PATIENCE_S = 0.25  # how long the screen may wait for another writer
KEPT_DELETED_S = 30 * 24 * 3600.0


class StoreError(KgptError):
    """The conversations could not be read or written."""


@dataclass(frozen=True)
class Entry:
    """A line of the list of conversations."""

    id: int
    title: str
    updated: float
    pinned: bool
    snippet: str = ""


class Store:
    """The conversations in one file (None: in memory)."""

    def __init__(self, path: Path | None):
        self.problem = ""
        try:
            self._database = self._open(path)
        except (sqlite3.Error, OSError, StoreError) as error:
            self.problem = (
                f"Conversations cannot be kept in {path} ({error}); those of now are lost at the end."
            )
            self._database = self._open(None)

    def _open(self, path: Path | None) -> sqlite3.Connection:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path or ":memory:", timeout=PATIENCE_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA foreign_keys = ON")
            if problem := migrate(database):
                raise StoreError(problem)
            old = time.time() - KEPT_DELETED_S
            database.execute("DELETE FROM conversations WHERE deleted < ?", (old,))
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        self._database.close()

    # -- writing -----------------------------------------------------------------------------

    def save(self, conversation: Conversation, messages: Iterable[Message]) -> None:
        """Write the conversation and those of its messages, all or nothing."""
        with self._transaction() as database:
            database.execute(_SAVE_CONVERSATION, _conversation_row(conversation))
            for message in messages:
                database.execute(_SAVE_MESSAGE, _message_row(conversation, message))

    def remove_messages(self, conversation: Conversation, messages: Iterable[Message]) -> None:
        with self._transaction() as database:
            database.execute(_SAVE_CONVERSATION, _conversation_row(conversation))
            ids = [(message.id,) for message in messages]
            database.executemany("DELETE FROM messages WHERE id = ?", ids)

    def delete(self, conversation: int) -> None:
        """Put away; `restore` brings it back for thirty days."""
        self._set(conversation, "deleted", time.time())

    def restore(self, conversation: int) -> None:
        self._set(conversation, "deleted", None)

    def pin(self, conversation: int, pinned: bool) -> None:
        self._set(conversation, "pinned", pinned)

    def rename(self, conversation: int, title: str) -> None:
        self._set(conversation, "title", title)

    def _set(self, conversation: int, column: str, value: object) -> None:
        with self._transaction() as database:
            statement = f"UPDATE conversations SET {column} = ? WHERE id = ?"
            database.execute(statement, (value, conversation))

    # -- reading -----------------------------------------------------------------------------

    def entries(self, words: str = "", limit: int = 200) -> list[Entry]:
        """Conversations, pinned and recent ones first; with `words`, those that hold them all."""
        with self._explained():
            if not words.strip():
                rows = self._database.execute(_LIST, (limit,))
                return [Entry(*row) for row in rows]
            pattern = " ".join('"' + word.replace('"', '""') + '"*' for word in words.split())
            like = f"%{words.strip()}%"
            found: dict[int, Entry] = {}
            for row in self._database.execute(_SEARCH, (pattern,)):
                found.setdefault(row[0], Entry(*row))
            for row in self._database.execute(_SEARCH_TITLES, (like,)):
                found.setdefault(row[0], Entry(*row))
            return list(found.values())[:limit]

    def load(self, conversation: int) -> Conversation:
        """The whole tree."""
        with self._explained():
            row = self._database.execute(_LOAD_CONVERSATION, (conversation,)).fetchone()
            if row is None:
                raise StoreError("That conversation is no longer there.")
            rows = self._database.execute(_LOAD_MESSAGES, (conversation,)).fetchall()
        sampling = json.loads(row[3])
        messages = {each[0]: _read_message(each) for each in rows}
        loaded = Conversation(*row[:3], sampling, *row[4:], messages=messages)
        loaded.pinned = bool(loaded.pinned)
        if loaded.leaf not in loaded.messages:
            roots = loaded.children(None)
            loaded.leaf = None
            if roots:
                loaded.show(roots[-1])
        return loaded

    def prompts(self, limit: int = 200) -> list[str]:
        """What the user wrote, oldest first, each once."""
        with self._explained():
            rows = self._database.execute(_PROMPTS, (limit,)).fetchall()
        return [row[0] for row in reversed(rows)]

    # -- what can go wrong -------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                said = "Another program holds the conversations; saving is tried again."
            else:
                said = f"The conversations could not be reached: {error}."
            raise StoreError(said) from error
        except sqlite3.Error as error:
            raise StoreError(f"The file of conversations is damaged: {error}.") from error


_SAVE_CONVERSATION = """
INSERT INTO conversations
  (id, title, system, sampling, model, layout, draft, pinned, created, updated, leaf)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET title = excluded.title, system = excluded.system,
  sampling = excluded.sampling, model = excluded.model, layout = excluded.layout,
  draft = excluded.draft, pinned = excluded.pinned, updated = excluded.updated, leaf = excluded.leaf
"""
_SAVE_MESSAGE = """
INSERT INTO messages (id, conversation, parent, role, content, created, model, finish, error,
  seconds, prompt_tokens, prefix, tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET content = excluded.content, finish = excluded.finish,
  error = excluded.error, seconds = excluded.seconds, prompt_tokens = excluded.prompt_tokens,
  model = excluded.model, prefix = excluded.prefix, tokens = excluded.tokens
"""
_LIST = """
SELECT id, title, updated, pinned, '' FROM conversations
WHERE deleted IS NULL ORDER BY pinned DESC, updated DESC LIMIT ?
"""
_SEARCH = """
SELECT conversations.id, title, updated, pinned, snippet(messages_text, 0, '', '', '…', 8)
FROM messages_text JOIN messages ON messages.id = messages_text.rowid
JOIN conversations ON conversations.id = messages.conversation
WHERE messages_text MATCH ? AND deleted IS NULL ORDER BY rank LIMIT 1000
"""
_SEARCH_TITLES = """
SELECT id, title, updated, pinned, '' FROM conversations
WHERE deleted IS NULL AND title LIKE ? ORDER BY updated DESC LIMIT 1000
"""
_LOAD_CONVERSATION, (conversation,)).fetchone()
            if row is None:
                raise StoreError("That conversation is no longer there.")
            rows = self._database.execute(_LOAD_MESSAGES, (conversation,)).fetchall()
        sampling = json.loads(row[3])
        messages = {each[0]: _read_message(each) for each in rows}
        loaded = Conversation(*row[:3], sampling, *row[4:], messages=messages)
        loaded.pinned = bool(loaded.pinned)
        if loaded.leaf not in loaded.messages:
            roots = loaded.children(None)
            loaded.leaf = None
            if roots:
                loaded.show(roots[-1])
        return loaded

    def prompts(self, limit: int = 200) -> list[str]:
        """What the user wrote, oldest first, each once."""
        with self._explained():
            rows = self._database.execute(_PROMPTS, (limit,)).fetchall()
        return [row[0] for row in reversed(rows)]

    # -- what can go wrong -------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                said = "Another program holds the conversations; saving is tried again."
            else:
                said = f"The conversations could not be reached: {error}."
            raise StoreError(said) from error
        except sqlite3.Error as error:
            raise StoreError(f"The file of conversations is damaged: {error}.") from error


_SAVE_CONVERSATION = """
INSERT INTO conversations
  (id, title, system, sampling, model, layout, draft, pinned, created, updated, leaf)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET title = excluded.title, system = excluded.system,
  sampling = excluded.sampling, model = excluded.model, layout = excluded.layout,
  draft = excluded.draft, pinned = excluded.pinned, updated = excluded.updated, leaf = excluded.leaf
"""
_SAVE_MESSAGE = """
INSERT INTO messages (id, conversation, parent, role, content, created, model, finish, error,
  seconds, prompt_tokens, prefix, tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET content = excluded.content, finish = excluded.finish,
  error = excluded.error, seconds = excluded.seconds, prompt_tokens = excluded.prompt_tokens,
  model = excluded.model, prefix = excluded.prefix, tokens = excluded.tokens
"""
_LIST = """
SELECT id, title, updated, pinned, '' FROM conversations
WHERE deleted IS NULL ORDER BY pinned DESC, updated DESC LIMIT ?
"""
_SEARCH = """
WITH hits AS (
  SELECT messages.conversation AS id, min(rank) AS rank,
         snippet(messages_text, 0, '', '', '…', 8) AS snippet
  FROM messages_text JOIN messages ON messages.id = messages_text.rowid
  WHERE messages_text MATCH ?1 GROUP BY messages.conversation
)
SELECT conversations.id, title, updated, pinned, coalesce(hits.snippet, '')
FROM conversations LEFT JOIN hits ON hits.id = conversations.id
WHERE deleted IS NULL AND (hits.id IS NOT NULL OR title LIKE ?2)
ORDER BY hits.rank IS NULL, hits.rank LIMIT ?3
"""
_LOAD_CONVERSATION = """
SELECT id, title, system, sampling, model, layout, draft, pinned, created, updated, leaf
FROM conversations WHERE id = ?
"""
_LOAD_MESSAGES = """
SELECT id, parent, role, content, created, model, finish, error, seconds, prompt_tokens, prefix,
  tokens
FROM messages WHERE conversation = ?
"""
_PROMPTS = """
SELECT content FROM messages WHERE role = 'user' GROUP BY content ORDER BY max(created) DESC LIMIT ?
"""


def _conversation_row(c: Conversation) -> tuple:
    return (
        c.id, _clean(c.title), _clean(c.system), json.dumps(c.sampling), c.model, c.layout,
        _clean(c.draft), c.pinned, c.created, c.updated, c.leaf,
    )  # fmt: skip


def _message_row(conversation: Conversation, m: Message) -> tuple:
    tokens = zlib.compress(json.dumps([asdict(token) for token in m.tokens]).encode(), 1)
    return (
        m.id, conversation.id, m.parent, m.role, _clean(m.content), m.created, m.model, m.finish,
        m.error, m.seconds, m.prompt_tokens, _clean(m.prefix), tokens,
    )  # fmt: skip


def _clean(text: str) -> str:
    """Without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_message(row: tuple) -> Message:
    message = Message(
        id=row[0], parent=row[1], role=row[2], content=row[3], created=row[4], model=row[5],
        finish=row[6], error=row[7], seconds=row[8], prompt_tokens=row[9], prefix=row[10],
    )  # fmt: skip
    message.tokens = [
        Token(**(token | {"top": tuple(Alternative(**each) for each in token["top"])}))
        for token in json.loads(zlib.decompress(row[11]))
    ]
    return message
