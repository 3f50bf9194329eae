"""From a prompt to text: caches, sampling, decoding."""
