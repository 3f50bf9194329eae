"""The versions of the conversation database: each step is applied once, in one transaction.

To change the schema add a step at the end; never edit one that was released.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from typing import Any

STEPS = [
    """
    CREATE TABLE conversations (
      id INTEGER PRIMARY KEY, title TEXT NOT NULL, system TEXT NOT NULL, sampling TEXT NOT NULL,
      model TEXT NOT NULL, layout TEXT NOT NULL, draft TEXT NOT NULL, pinned INTEGER NOT NULL,
      created REAL NOT NULL, updated REAL NOT NULL, leaf INTEGER, deleted REAL
    );
    CREATE INDEX conversations_by_time ON conversations (updated);
    CREATE TABLE messages (
      id INTEGER PRIMARY KEY,
      conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
      parent INTEGER, role TEXT NOT NULL, content TEXT NOT NULL, created REAL NOT NULL,
      model TEXT NOT NULL, finish TEXT NOT NULL, error TEXT NOT NULL, seconds REAL NOT NULL,
      prompt_tokens INTEGER NOT NULL, prefix TEXT NOT NULL, tokens BLOB NOT NULL
    );
    CREATE INDEX messages_by_conversation ON messages (conversation);
    """,
    """
    CREATE VIRTUAL TABLE messages_text USING fts5
      (content, content = 'messages', content_rowid = 'id');
    CREATE TRIGGER messages_added AFTER INSERT ON messages BEGIN
      INSERT INTO messages_text (rowid, content) VALUES (new.id, new.content);
    END;
    CREATE TRIGGER messages_gone AFTER DELETE ON messages BEGIN
      INSERT INTO messages_text (messages_text, rowid, content)
      VALUES ('delete', old.id, old.content);
    END;
    CREATE TRIGGER messages_changed AFTER UPDATE OF content ON messages BEGIN
      INSERT INTO messages_text (messages_text, rowid, content)
      VALUES ('delete', old.id, old.content);
      INSERT INTO messages_text (rowid, content) VALUES (new.id, new.content);
    END;
    """,
    """
    ALTER TABLE conversations RENAME COLUMN layout TO mode;
    UPDATE conversations SET sampling = renamed_sampling_fields(sampling);
    UPDATE messages SET tokens = renamed_token_fields(tokens);
    """,
    "ALTER TABLE messages ADD COLUMN receipt TEXT NOT NULL DEFAULT '';",
]


def migrate(database: sqlite3.Connection, steps: list[str] | None = None) -> str:
    """Bring the schema up to date; returns why that cannot be, or an empty string."""
    steps = STEPS if steps is None else steps
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        return "it was written by a newer kgpt"
    database.create_function("renamed_sampling_fields", 1, _renamed_sampling_json)
    database.create_function("renamed_token_fields", 1, _renamed_token_fields)
    for number, step in enumerate(steps[version:], version + 1):
        script = f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;"
        try:
            database.executescript(script)
        except sqlite3.Error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            if database.execute("PRAGMA user_version").fetchone()[0] < number:
                raise  # unless another process took the same step at the same time
    return ""


def renamed_sampling_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Sampling fields under today's names: `banned` became `bad_words`."""
    return {"bad_words" if name == "banned" else name: value for name, value in values.items()}


def _renamed_sampling_json(text: str) -> str:
    try:
        return json.dumps(renamed_sampling_fields(json.loads(text)))
    except (ValueError, AttributeError):
        return "{}"


def _renamed_token_fields(blob: bytes) -> bytes:
    """Version 2 called `top_logprobs` `top` and `sampling_prob` `filtered`, and kept no bytes."""
    try:
        entries = [
            _renamed_token(token) | {"top_logprobs": [_renamed_token(top) for top in token["top"]]}
            for token in json.loads(zlib.decompress(blob))
        ]
    except (ValueError, KeyError, TypeError, zlib.error):  # the message stays, without its tokens
        entries = []
    return zlib.compress(json.dumps(entries).encode(), 1)


def _renamed_token(token: dict[str, Any]) -> dict[str, Any]:
    kept = {name: token[name] for name in ("id", "text", "logprob")}
    return kept | {"sampling_prob": token.get("sampling_prob", token.get("filtered"))}
