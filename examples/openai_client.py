"""The OpenAI client against `kgpt serve --model MODEL`: python examples/openai_client.py [URL]"""

import sys

from openai import OpenAI

url = (sys.argv[1:] or ["http://127.0.0.1:8000"])[0]
client = OpenAI(base_url=f"{url}/v1", api_key="none")
model = client.models.list().data[0].id

stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Where is the boat?"}],
    max_tokens=40,
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
