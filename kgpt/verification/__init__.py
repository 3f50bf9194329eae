"""Verify that a model is one model everywhere: `kgpt verify`.

Each place that runs the model (a backend at a precision, an export, other software, the HTTP
server) is observed in a process that has what it needs, and compared with a reference in NumPy:

    probe           the fixed inputs: text, prompts, fuzzed strings, conversations
    reference       GPT-2 and Llama in NumPy, float64
    places          the places that exist on this machine, and why others do not
    observation     what a place computes from the probe
    worker          the child process that observes some places
    checks          an observation against the reference, within stated bounds
    certificate     the result of all places, as JSON and as sentences
"""
