"""Model directories on disk: Hugging Face configuration, weights, quantized storage, importers."""
