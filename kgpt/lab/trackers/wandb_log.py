"""The records of a W&B offline file `run-ID.wandb`.

It is a log of LevelDB (github.com/google/leveldb/blob/main/doc/log_format.md) behind a header of 7
bytes: blocks of 32 KiB, in them pieces with checksum, length and type before the data. A record is
one piece, or goes on in the next ones.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from kgpt.errors import DataError

MAGIC = b":W&B\xe1\xbe"  # then one byte, the version
HEADER_BYTES, BLOCK_BYTES = 7, 32 * 1024
PIECE = struct.Struct("<IHB")  # checksum, length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(content: bytes) -> Iterator[bytes]:
    """The records of a file; a last one that is incomplete, as after a crash, is left out.

    Raises `DataError` if it is another kind of file, or a checksum is wrong.
    """
    if not content.startswith(MAGIC):
        raise DataError("it does not begin as a file of W&B does")
    record = b""
    for kind, data in _pieces(content):
        record = data if kind in (FULL, FIRST) else record + data
        if kind in (FULL, LAST):
            yield record


def _pieces(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = HEADER_BYTES
    while at + PIECE.size <= len(content):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < PIECE.size:  # the end of a block, filled with zeros
            at += left
            continue
        checksum, length, kind = PIECE.unpack_from(content, at)
        if not (checksum or length or kind):
            return  # space that was reserved and not used
        data = content[at + PIECE.size : at + PIECE.size + length]
        at += PIECE.size + length
        if at > len(content):
            return
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum or not FULL <= kind <= LAST:
            raise DataError("a checksum is wrong")
        yield kind, data
