"""Conversations on disk, in SQLite: trees of messages, full-text search, undoable deletion.

A database that cannot be opened is replaced by one in memory, and `problem` says so. A database
that is locked for the moment raises `StoreError`; the caller keeps its changes and tries again.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.errors import KgptError
from kgpt_tui.chat import sql
from kgpt_tui.chat.conversation import Conversation, Message
from kgpt_tui.chat.migrations import migrate
from kgpt_tui.chat.token_codec import decode_tokens, encode_tokens

LOCK_TIMEOUT_S = 0.25  # for another writer; the screen blocks meanwhile
DELETED_RETENTION_S = 30 * 24 * 3600.0


class StoreError(KgptError):
    """The conversations could not be read or written."""


@dataclass(frozen=True)
class Entry:
    """A conversation as listed."""

    id: int
    title: str
    updated: float
    pinned: bool
    snippet: str = ""


class Store:
    """The conversations in one file (None: in memory)."""

    def __init__(self, path: Path | None):
        self.path = path
        self.problem = ""
        try:
            self._database = self._open(path)
        except (sqlite3.Error, OSError, StoreError) as error:
            loss = "conversations of this session are lost at the end"
            self.problem = f"Conversations cannot be kept in {path} ({error}); {loss}."
            self._database = self._open(None)

    def _open(self, path: Path | None) -> sqlite3.Connection:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path or ":memory:", timeout=LOCK_TIMEOUT_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA foreign_keys = ON")
            if problem := migrate(database):
                raise StoreError(problem)
            old = time.time() - DELETED_RETENTION_S
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
            database.execute(sql.SAVE_CONVERSATION, _conversation_row(conversation))
            for message in messages:
                database.execute(sql.SAVE_MESSAGE, _message_row(conversation, message))

    def remove_messages(self, conversation: Conversation, messages: Iterable[Message]) -> None:
        with self._transaction() as database:
            database.execute(sql.SAVE_CONVERSATION, _conversation_row(conversation))
            ids = [(message.id,) for message in messages]
            database.executemany("DELETE FROM messages WHERE id = ?", ids)

    def delete(self, conversation: int) -> None:
        """Mark as deleted; `restore` undoes it for thirty days."""
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
        """Conversations, pinned and recent ones first; with `words`, those with all of them."""
        with self._as_store_errors():
            if not words.strip():
                rows = self._database.execute(sql.LIST, (limit,))
                return [Entry(*row) for row in rows]
            pattern = " ".join('"' + word.replace('"', '""') + '"*' for word in words.split())
            like = f"%{words.strip()}%"
            found: dict[int, Entry] = {}
            for row in self._database.execute(sql.SEARCH, (pattern,)):
                found.setdefault(row[0], Entry(*row))
            for row in self._database.execute(sql.SEARCH_TITLES, (like,)):
                found.setdefault(row[0], Entry(*row))
            return list(found.values())[:limit]

    def load(self, conversation: int) -> Conversation:
        """The conversation with all its messages."""
        with self._as_store_errors():
            row = self._database.execute(sql.LOAD_CONVERSATION, (conversation,)).fetchone()
            if row is None:
                raise StoreError("That conversation is no longer there.")
            rows = self._database.execute(sql.LOAD_MESSAGES, (conversation,)).fetchall()
        loaded = _read_conversation(row)
        loaded.messages = {each[0]: _read_message(each) for each in rows}
        if loaded.leaf not in loaded.messages:
            roots = loaded.children(None)
            loaded.leaf = None
            if roots:
                loaded.show(roots[-1])
        return loaded

    def prompts(self, limit: int = 200) -> list[str]:
        """Distinct prompts of the user, oldest first."""
        with self._as_store_errors():
            rows = self._database.execute(sql.PROMPTS, (limit,)).fetchall()
        return [row[0] for row in reversed(rows)]

    # -- transactions and errors -------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._as_store_errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                problem = "Another program has locked the conversations; saving is tried again."
            else:
                problem = f"The conversations could not be reached: {error}."
            raise StoreError(problem) from error
        except sqlite3.Error as error:
            raise StoreError(f"The database of conversations is damaged: {error}.") from error


def _conversation_row(c: Conversation) -> tuple[Any, ...]:
    return (
        c.id, _clean(c.title), _clean(c.system), json.dumps(c.sampling), c.model, c.mode,
        _clean(c.draft), c.pinned, c.created, c.updated, c.leaf,
    )  # fmt: skip


def _message_row(conversation: Conversation, m: Message) -> tuple[Any, ...]:
    tokens = encode_tokens(m.tokens)
    return (
        m.id, conversation.id, m.parent, m.role, _clean(m.content), m.created, m.model, m.finish,
        m.error, m.seconds, m.prompt_tokens, _clean(m.prefix), tokens, m.receipt,
    )  # fmt: skip


def _clean(text: str) -> str:
    """Replaces lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read_conversation(row: tuple[Any, ...]) -> Conversation:
    return Conversation(
        id=row[0], title=row[1], system=row[2], sampling=json.loads(row[3]), model=row[4],
        mode=row[5], draft=row[6], pinned=bool(row[7]), created=row[8], updated=row[9],
        leaf=row[10],
    )  # fmt: skip


def _read_message(row: tuple[Any, ...]) -> Message:
    return Message(
        id=row[0], parent=row[1], role=row[2], content=row[3], created=row[4], model=row[5],
        finish=row[6], error=row[7], seconds=row[8], prompt_tokens=row[9], prefix=row[10],
        tokens=decode_tokens(row[11]), receipt=row[12],
    )  # fmt: skip
