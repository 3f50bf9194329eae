"""Encode batches on all cores and give them back in their order.

Without workers, the threads of the tokenizers library encode one batch while the one before is
turned into arrays. With workers, each process encodes whole batches, its Python code included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from kgpt.data.batch_encoder import EncodingOptions, make_encoder
from kgpt.data.encoded_batch import EncodedBatch
from kgpt.data.encoding_worker import WorkerProcesses
from kgpt.data.source_batches import SourceBatch
from kgpt.errors import KgptError
from kgpt.text.tokenizer import Tokenizer

BATCHES_AHEAD = 2  # of each worker: read, but not yet given back


def encode_batches(
    batches: Iterable[SourceBatch],
    tokenizer: Tokenizer,
    options: EncodingOptions,
    workers: int | None = None,
) -> Generator[EncodedBatch]:
    """`batches` encoded, in their order.

    Args:
        workers: processes; None encodes in threads of this one.

    Raises:
        DataError: the first of what is wrong in the order of the documents.
        KgptError: a worker has been killed.
    """
    encoder = make_encoder(tokenizer, options)  # also raises if it cannot encode such documents
    if workers is None:
        threads = 1 if options.masked else 2  # chat templates are Python code
        with ThreadPoolExecutor(threads) as pool:
            yield from _in_order(batches, lambda batch: pool.submit(encoder.encode, batch), threads)
        return
    with WorkerProcesses(workers, tokenizer, options) as processes:
        yield from _in_order(batches, processes.submit, BATCHES_AHEAD * workers)


def _in_order(
    batches: Iterable[SourceBatch],
    submit: Callable[[SourceBatch], Future[EncodedBatch]],
    ahead: int,
) -> Generator[EncodedBatch]:
    """The results of `submit` in the order of `batches`, of which `ahead` are in work."""
    pending: deque[Future[EncodedBatch]] = deque()
    try:
        try:
            for batch in batches:
                pending.append(submit(batch))
                if len(pending) > ahead:
                    yield pending.popleft().result()
        except KgptError:  # what is wrong in an earlier document comes first
            while pending:
                yield pending.popleft().result()
            raise
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
