"""Worker processes that encode batches.

Each is `python -m kgpt.data.encoding_worker`, with pickled batches on its standard input. The
processes of `multiprocessing` would import the caller's main module again.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

import tokenizers

from kgpt.data.batch_encoder import EncodingOptions, make_encoder
from kgpt.data.encoded_batch import EncodedBatch
from kgpt.data.source_batches import SourceBatch
from kgpt.errors import KgptError
from kgpt.text.tokenizer import Tokenizer

COMMAND = [sys.executable, "-P", "-m", "kgpt.data.encoding_worker"]


class WorkerProcesses:
    """Processes that encode, each with a thread of this process that waits for its answers."""

    def __init__(self, count: int, tokenizer: Tokenizer, options: EncodingOptions):
        self._state = tokenizer.to_json(), tokenizer.special_tokens, options
        self._thread = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        self._pool.shutdown()
        for process in self._processes:
            process.communicate()

    def submit(self, batch: SourceBatch) -> Future[EncodedBatch]:
        return self._pool.submit(self._encode, batch)

    def _encode(self, batch: SourceBatch) -> EncodedBatch:
        """Raises `KgptError` if a document cannot be used, or the worker was killed."""
        try:
            if not hasattr(self._thread, "process"):
                self._start()
            process = self._thread.process
            _send(process.stdin, batch)
            answer: EncodedBatch | KgptError = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise KgptError(
                "A worker was killed, perhaps for want of memory; give fewer with --workers."
            ) from None
        if isinstance(answer, KgptError):
            raise answer
        return answer

    def _start(self) -> None:
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
            start_new_session=True,  # an interrupt from the keyboard is for the parent
        )
        self._processes.append(process)
        self._thread.process = process
        assert process.stdin is not None
        _send(process.stdin, self._state)


def _send(pipe: IO[bytes], value: object) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def main() -> None:
    """Encode what comes until the parent ends."""
    tokenizer_json, special_tokens, options = pickle.load(sys.stdin.buffer)
    backend_tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    encoder = make_encoder(Tokenizer(backend_tokenizer, special_tokens), options)
    while True:
        try:
            batch: SourceBatch = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: EncodedBatch | KgptError = encoder.encode(batch)
        except KgptError as error:
            answer = error
        _send(sys.stdout.buffer, answer)


if __name__ == "__main__":
    main()
