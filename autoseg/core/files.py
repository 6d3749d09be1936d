"""Files are whole or absent: everything is written beside its target under a hidden name, flushed and renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoseg.core.errors import DataError, Problem


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block ends without an error.

    The temporary name begins with a dot and keeps the ending, because image writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN, no Infinity), whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read strict JSON.

    Raises:
        DataError: the file is missing, is no text, or is no JSON (line and column are named).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        problem = Problem(case="", file=str(path), found=f"cannot be read ({error.strerror})", next="check the path")
        raise DataError(problem) from error
    except UnicodeDecodeError as error:
        raise DataError(
            Problem(case="", file=str(path), found="is no UTF-8 text", next="save it as plain JSON text")
        ) from error
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        found = f"is no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise DataError(Problem(case="", file=str(path), found=found, next="correct that place")) from error
    except ValueError as error:
        raise DataError(Problem(case="", file=str(path), found=str(error), next="replace it by a number")) from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which is no JSON number")


def content_key(*parts: Any, files: Iterable[Path] = ()) -> str:
    """Hash of JSON-able values and of the content of files: what a result was made from, in 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    for path in files:
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        digest.update(b"\0")
    return digest.hexdigest()
