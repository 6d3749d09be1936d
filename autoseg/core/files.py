"""Files are whole or absent: written beside their target under a hidden name, flushed and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoseg.core.errors import DataError, Problem, UsageError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    The temporary name begins with a dot and keeps the ending, by which image writers choose the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # random: processes on several machines may share the folder, and a process id
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a file that is to be replaced, or must not pass for a result any more, to a name that no command reads.

    Returns:
        The new path: that of the file with .earlier, .earlier2, ... behind it.
    """
    number, kept = 1, path.with_name(f"{path.name}.earlier")
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.earlier{number}")
    return path.rename(kept)


def make_writable(folder: Path) -> None:
    """Make the folder for results and try to write into it. Raises UsageError when that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{secrets.token_hex(4)}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); give another folder with -o") from error


def unsafe_name(name: str) -> str:
    """Why a name from a file must not become a file name; empty when it may."""
    if not name:
        return "is empty"
    if "/" in name or "\\" in name:
        return "holds a path separator"
    if name.startswith("."):
        return "begins with a dot"
    if ".." in name:
        return "holds '..'"
    # Cs: bytes of a file name that are no UTF-8; no JSON can hold them
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "holds a control character or bytes that are no text"
    return ""


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN, no Infinity), whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read strict JSON: no NaN or Infinity, no key twice in an object.

    Raises:
        DataError: the file is missing, is no text, or is no JSON (line and column are named).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_members)
    except OSError as error:
        raise _unreadable(path, f"cannot be read ({error.strerror})", "check the path") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "is no UTF-8 text", "save it as plain JSON text") from error
    except json.JSONDecodeError as error:
        found = f"is no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise _unreadable(path, found, "correct that place") from error
    except RecursionError as error:
        raise _unreadable(path, "is nested too deeply", "replace the file") from error
    except ValueError as error:
        raise _unreadable(path, str(error), "correct that place") from error


def _unreadable(path: Path, found: str, todo: str) -> DataError:
    return DataError(Problem(case="", file=str(path), found=found, next=todo))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which is no JSON number")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"holds the key '{key}' twice in one object")
        members[key] = value
    return members


def json_line(text: str, place: Sequence[str | int]) -> int | None:
    """Line (from 1) of the innermost key or entry on the way to `place` in valid JSON; None without one."""
    found, at = None, _next_token(text, 0)
    for part in place:
        member = _member(text, at, part)
        if member is None:
            break
        found, at = member
    return None if found is None else text.count("\n", 0, found) + 1


def _member(text: str, start: int, part: str | int) -> tuple[int, int] | None:
    """Where the member `part` of the object or list at `start` begins, and where its value begins."""
    if text[start] not in "[{":
        return None
    decode = json.JSONDecoder().raw_decode
    at, number = _next_token(text, start + 1), 0
    while text[at] not in "]}":
        begin, key = at, number
        if text[start] == "{":
            key, at = decode(text, at)
            at = _next_token(text, at)
        if key == part:
            return begin, at
        at = _next_token(text, decode(text, at)[1])
        number += 1
    return None


def _next_token(text: str, at: int) -> int:
    """Position of the next token that is no separator: where JSON is known to be valid these mean nothing."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at


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
