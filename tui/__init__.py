"""The terminal app of kgpt: chat with models, watch and steer training. No Keras here.

It meets the engine in the HTTP API and the trainer in the run directory, so it starts in under a
second, survives both, and works as well with those of another machine.
"""
