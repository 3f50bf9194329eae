"""The SavedModel export: the whole text generator, or classifier, as one TensorFlow graph."""
