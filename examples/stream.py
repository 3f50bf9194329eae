"""Stream text, then show how probable each token was.

    python examples/stream.py MODEL [PROMPT]

MODEL is a run, run@step, a model directory or a Hugging Face hub id.
"""

import math
import sys

import kgpt

model, prompt = sys.argv[1], (sys.argv[2:] or ["The"])[0]
with kgpt.load(model) as generator:
    tokens = []
    for chunk in generator.stream(prompt, max_tokens=40, temperature=0.8, seed=7, top_logprobs=3):
        print(chunk.text, end="", flush=True)
        tokens += chunk.tokens
    print()
    for token in tokens[:10]:
        others = ", ".join(repr(other.text) for other in token.top_logprobs)
        print(f"{token.text!r:>12}  {math.exp(token.logprob):6.1%}   most likely: {others}")
