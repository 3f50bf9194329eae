"""Text as token ids: tokenizers and conversation layouts."""
