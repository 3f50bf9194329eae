"""What happens around the steps of `model.fit`: one Keras callback a file.

Each works in a script of its own; `kgpt.training.trainer` puts them together. Their order matters:
those that add to the logs (validation) come before those that read them (records, checkpoints).
"""
