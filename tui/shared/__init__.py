"""What several features share: dialogs, formatting, settings, themes, the key bar."""
