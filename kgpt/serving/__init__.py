"""The HTTP server: kgpt's engine behind the OpenAI API. It reads no path or template from a request."""
