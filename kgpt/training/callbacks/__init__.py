"""Keras callbacks around the steps of `model.fit`, one a file.

Each works in a script of its own; `kgpt.training.trainer` combines them. Order matters: those that
add to the logs (validation) come before those that read them (metrics, checkpoints).
"""
