"""Chat: the screen, its widgets, conversations on disk, and the session logic."""
