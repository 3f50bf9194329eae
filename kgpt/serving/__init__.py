"""The HTTP server: the engine behind the OpenAI API, and a page to chat in."""
