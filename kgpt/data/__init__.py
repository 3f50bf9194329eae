"""From files to batches: sources, shards, windows, and the embedded corpus."""
