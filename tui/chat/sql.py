"""The statements of the store."""

SAVE_CONVERSATION = """
INSERT INTO conversations
  (id, title, system, sampling, model, mode, draft, pinned, created, updated, leaf)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET title = excluded.title, system = excluded.system,
  sampling = excluded.sampling, model = excluded.model, mode = excluded.mode,
  draft = excluded.draft, pinned = excluded.pinned, updated = excluded.updated, leaf = excluded.leaf
"""
SAVE_MESSAGE = """
INSERT INTO messages (id, conversation, parent, role, content, created, model, finish, error,
  seconds, prompt_tokens, prefix, tokens, receipt)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET content = excluded.content, finish = excluded.finish,
  error = excluded.error, seconds = excluded.seconds, prompt_tokens = excluded.prompt_tokens,
  model = excluded.model, prefix = excluded.prefix, tokens = excluded.tokens,
  receipt = excluded.receipt
"""
LIST = """
SELECT id, title, updated, pinned, '' FROM conversations
WHERE deleted IS NULL ORDER BY pinned DESC, updated DESC LIMIT ?
"""
SEARCH = """
SELECT conversations.id, title, updated, pinned, snippet(messages_text, 0, '', '', '…', 8)
FROM messages_text JOIN messages ON messages.id = messages_text.rowid
JOIN conversations ON conversations.id = messages.conversation
WHERE messages_text MATCH ? AND deleted IS NULL ORDER BY rank LIMIT 1000
"""
SEARCH_TITLES = """
SELECT id, title, updated, pinned, '' FROM conversations
WHERE deleted IS NULL AND title LIKE ? ORDER BY updated DESC LIMIT 1000
"""
LOAD_CONVERSATION = """
SELECT id, title, system, sampling, model, mode, draft, pinned, created, updated, leaf
FROM conversations WHERE id = ?
"""
LOAD_MESSAGES = """
SELECT id, parent, role, content, created, model, finish, error, seconds, prompt_tokens, prefix,
  tokens, receipt
FROM messages WHERE conversation = ?
"""
PROMPTS = """
SELECT content FROM messages WHERE role = 'user' GROUP BY content ORDER BY max(created) DESC LIMIT ?
"""
