"""Blosc2 arrays from disk, and nothing else that such a file may hold: some of it would run when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import blosc2

# Names of the header's entries that make a file an expression, a function in Python source, or a link to another place.
# Versions of Blosc2 from 4.14 on refuse these themselves.
EXECUTABLE = (b"LazyArray", b"proxy-source", b"\xa3b2o")
LENGTH_AT, LARGEST_HEADER = 11, 1 << 20  # where the frame format has the length of its header, big-endian in 4 bytes


def open_plain_array(path: Path, **options: Any) -> Any:
    """Open a Blosc2 array for reading; slicing it gives NumPy arrays.

    Args:
        path: a .b2nd file.
        options: of `blosc2.open`.

    Raises:
        OSError: the file cannot be read. ValueError: it is damaged, or no plain array; nothing in it was run.
    """
    with open(path, "rb") as file:
        start = file.read(LENGTH_AT + 4)
        header = start + file.read(min(LARGEST_HEADER, int.from_bytes(start[LENGTH_AT:], "big")))
    if any(name in header for name in EXECUTABLE):
        raise ValueError("it holds something to be run, not an array")
    try:
        array = blosc2.open(str(path), mode="r", **options)
    except Exception as error:
        # whatever damaged bytes make it raise: RuntimeError, MemoryError, SyntaxError, TypeError, ...
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not isinstance(array, blosc2.NDArray):
        raise ValueError(f"it is a {type(array).__name__}")
    return array
