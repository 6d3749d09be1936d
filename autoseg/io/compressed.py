"""The content of a compressed file in blocks, with its checksum verified: image libraries skip that check."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


class DamagedError(Exception):
    """A compressed stream that ends early or fails its checksum; the message completes "the file ..."."""


def content_blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a plain or gzip-compressed file (told by its first bytes), up to 1 MiB at a time.

    Raises:
        DamagedError: the gzip data ends early, or a checksum is wrong.
    """
    with open(path, "rb") as stream:
        compressed = stream.read(2) == GZIP_MAGIC
        stream.seek(0)
        if compressed:
            yield from inflated(stream)
        else:
            while block := stream.read(BLOCK_BYTES):
                yield block


def inflated(stream: BinaryIO) -> Iterator[bytes]:
    """Decompress gzip or zlib data from the position of `stream` on, up to 1 MiB at a time.

    Several gzip members in a row count as one stream. What follows is ignored, as all readers do.

    Raises:
        DamagedError: the data ends early, or a checksum is wrong.
    """
    pending = stream.read(BLOCK_BYTES)
    while True:
        # 32: recognise zlib and gzip by their first bytes
        decompressor = zlib.decompressobj(32 + zlib.MAX_WBITS)
        while not decompressor.eof:
            try:
                block = decompressor.decompress(pending, BLOCK_BYTES)
            except zlib.error as error:
                raise DamagedError(f"is damaged: its compressed data fails the check ({error})") from error
            if block:
                yield block
            pending = decompressor.unconsumed_tail
            if not decompressor.eof and not pending and not block:
                pending = stream.read(BLOCK_BYTES)
                if not pending:
                    raise DamagedError("is truncated: its compressed data ends early")
        pending = decompressor.unused_data or stream.read(BLOCK_BYTES)
        if len(pending) < len(GZIP_MAGIC):
            pending += stream.read(BLOCK_BYTES)
        if not pending.startswith(GZIP_MAGIC):
            return
