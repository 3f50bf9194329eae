"""The SavedModel export: the whole text generator as one TensorFlow graph."""
