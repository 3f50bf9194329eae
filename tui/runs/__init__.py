"""Training runs: the table, watching one, comparing several, and their charts."""
