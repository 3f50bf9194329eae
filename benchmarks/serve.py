"""`kgpt serve` beside transformers' own server and `generate`, on the same weights.

    KERAS_BACKEND=jax python -m benchmarks.serve [--seconds 60] [--clients 8]

Both servers get the same model directory (random weights, float32), the same number of threads,
and the same clients, alternating. For comparison, transformers' `generate` is called with one
prompt at a time and with a static batch. Needs `pip install "transformers[serving]" accelerate`
with PyTorch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from kgpt.serving.load_test import LoadTest
from tests.tiny import write_tiny_model

BIN = Path(sys.executable).parent
SHAPES = {
    "tiny": {
        "num_layers": 2,
        "hidden_dim": 32,
        "num_heads": 2,
        "num_kv_heads": 2,
        "intermediate_dim": 64,
    },
    "12M": {
        "num_layers": 6,
        "hidden_dim": 384,
        "num_heads": 6,
        "num_kv_heads": 6,
        "intermediate_dim": 1024,
    },
    "60M": {
        "num_layers": 12,
        "hidden_dim": 640,
        "num_heads": 10,
        "num_kv_heads": 10,
        "intermediate_dim": 1728,
    },
}


@contextlib.contextmanager
def server(*command: str, ready: str, **environment: str):
    """A server process on a free port; gives its URL once `ready` answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url + ready).status_code == 200:
                    break
            if child.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {child.returncode}")
            time.sleep(0.2)
        yield url
    finally:
        child.terminate()
        child.wait()


def forget_ends(folder: Path) -> None:
    """Take the tokens that end a text out of a model's settings: all texts are as long as asked."""
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        values.pop("eos_token_id", None)
        (folder / name).write_text(json.dumps(values))


def measured(url: str, clients: int, options, **fields) -> dict:
    """Figures of one server, after a moment to warm up; greedy, for both to write the same."""
    fields["temperature"] = 0
    asyncio.run(
        LoadTest(url, clients, options.seconds / 4, options.max_tokens, fields=fields).run()
    )
    load = LoadTest(url, clients, options.seconds, options.max_tokens, fields=fields)
    result = asyncio.run(load.run())
    if result.errors:
        print("  errors:", result.errors[:2], file=sys.stderr)
    return result.as_dict()


def generate(folder: Path, options, batch: int) -> dict:
    """transformers' `generate` in a process of its own."""
    code = f"""
import json, time, torch, transformers
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r}, dtype=torch.float32)
ids = torch.randint(0, 256, ({batch}, 17))
def once():
    return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
        max_new_tokens={options.max_tokens}, min_new_tokens={options.max_tokens}, pad_token_id=0)
once()
begun, tokens = time.time(), 0
while time.time() - begun < {options.seconds}:
    tokens += once().shape[1] * {batch} - 17 * {batch}
print(json.dumps({{"tokens_per_second": round(tokens / (time.time() - begun), 1)}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--model", choices=SHAPES, default="12M")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    results: dict[str, list[dict]] = {}

    def note(name: str, figures: dict) -> None:
        results.setdefault(name, []).append(figures)
        print(f"{name:44} {json.dumps(figures)}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        folder = write_tiny_model(Path(place) / "model", max_length=512, **SHAPES[options.model])
        forget_ends(folder)
        ours = [str(BIN / "kgpt"), "serve", "--model", str(folder), "--name", "model"]
        theirs = [str(BIN / "transformers"), "serve", str(folder), "--dtype", "float32"]
        theirs += ["--device", "cpu"]
        for _ in range(options.rounds):
            for clients in (1, options.clients):
                slots = ["--max-num-seqs", str(options.clients)]
                with server(*ours, *slots, ready="/health") as url:
                    note(
                        f"kgpt serve, {clients} clients",
                        measured(url, clients, options),
                    )
                for flag in ("--no-continuous-batching", "--continuous-batching"):
                    with server(*theirs, flag, ready="/health") as url:
                        name = f"transformers serve {flag[2:]}, {clients} clients"
                        note(name, measured(url, clients, options, model=str(folder)))
            note("transformers generate, one by one", generate(folder, options, 1))
            note(
                f"transformers generate, batch of {options.clients}",
                generate(folder, options, options.clients),
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
