"""Runs in the files of experiment trackers: TensorBoard, Weights & Biases offline, trackio.

A tracker's module has `write(run, folder, project)` and `read(path)`; both speak of a `TrackedRun`.
Nothing here uses the network.
"""
