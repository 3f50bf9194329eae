"""A conversation in Python: python examples/chat.py MODEL"""

import sys

import kgpt

with kgpt.load(sys.argv[1]) as generator:
    messages = [{"role": "user", "content": "Where is the boat?"}]
    answer = generator.chat(messages, max_tokens=40, temperature=0)
    print(answer.text)
    messages += [
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "And the dog?"},
    ]
    print(generator.chat(messages, max_tokens=40, temperature=0).text)
