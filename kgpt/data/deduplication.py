"""Duplicates among documents: exact ones by a hash, near ones by MinHash and LSH (extra "dedup").

Keys are computed where documents are encoded, and compared in the order of the documents, of which
the first is kept. Memory: of each document that is kept, its key and its place in the index.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from kgpt.config import DocumentSelectionConfig
from kgpt.errors import UsageError

DIGEST_BYTES = 16
NUM_PERMUTATIONS, SEED, SCHEME = 128, 1, "affine32"  # of MinHash
SHINGLE_WORDS = 5
# Words, and the characters of scripts that put no space between words.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
Key = Callable[[str], np.ndarray]


def key_function(config: DocumentSelectionConfig) -> Key | None:
    """What computes the key of a text; None without deduplication.

    Raises:
        UsageError: a package is missing.
    """
    if config.dedup == "none":
        return None
    if config.dedup == "exact":
        return _digest
    _datasketch()
    return _signature


class Deduplicator:
    """Tells which documents are the first of their kind."""

    def __init__(self, config: DocumentSelectionConfig):
        self._seen: set[bytes] = set()
        self._threshold = config.dedup_threshold
        self._index: Any = None
        self._signatures: list[Any] = []
        if config.dedup == "minhash":
            # A candidate that LSH finds is compared; one that it does not find is missed.
            self._index = _datasketch().MinHashLSH(
                config.dedup_threshold, NUM_PERMUTATIONS, weights=(0.1, 0.9)
            )

    def is_first(self, keys: np.ndarray) -> np.ndarray:
        """(documents,) bool for the keys (documents, width) of the next documents."""
        is_new = self._is_new_digest if self._index is None else self._is_new_signature
        return np.array([is_new(key) for key in keys], bool)

    def _is_new_digest(self, key: np.ndarray) -> bool:
        digest = key.tobytes()
        is_new = digest not in self._seen
        self._seen.add(digest)
        return is_new

    def _is_new_signature(self, key: np.ndarray) -> bool:
        signature = _datasketch().LeanMinHash(seed=SEED, hashvalues=key, scheme=SCHEME)
        found = self._index.query(signature)
        if any(signature.jaccard(self._signatures[n]) >= self._threshold for n in found):
            return False
        self._index.insert(len(self._signatures), signature)
        self._signatures.append(signature)
        return True


def _digest(text: str) -> np.ndarray:
    data = text.encode("utf-8", "surrogatepass")
    return np.frombuffer(hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest(), np.uint8)


def _signature(text: str) -> np.ndarray:
    """(NUM_PERMUTATIONS,) uint32: MinHash of the set of words in a row, in lower case."""
    words = WORD.findall(text.lower())
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    shingles = {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(count)}
    minhash = _datasketch().MinHash(NUM_PERMUTATIONS, SEED, scheme=SCHEME)
    minhash.update_batch([shingle.encode() for shingle in sorted(shingles)])
    return np.asarray(minhash.hashvalues, np.uint32)


def _datasketch() -> Any:
    try:
        import datasketch
    except ImportError:
        raise UsageError(
            "--dedup minhash needs the package datasketch; install it with "
            '`pip install "kgpt[dedup]"`.'
        ) from None
    return datasketch
