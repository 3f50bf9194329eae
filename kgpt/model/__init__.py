"""The model: a decoder of custom Keras layers, and its directory on disk."""
