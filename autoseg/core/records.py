"""Records that cross JSON: frozen, checked once where they are read, with errors that name the place and the nearest key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import read_json, write_json

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """Base of all JSON records: frozen, no unknown keys, no NaN; change by `record.with_changes(key=value)`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def with_changes(self: R, **changes: Any) -> R:
        """A copy with some fields changed, checked like a record that was read from a file."""
        return parse(type(self), {**self.model_dump(), **changes}, source="")

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read and check the record. Raises DataError naming every wrong key."""
        return parse(cls, read_json(path), source=str(path))


def parse(record: type[R], value: Any, *, source: str) -> R:
    """Check a decoded JSON value against a record class.

    Raises:
        DataError: one Problem per wrong place; `source` names the file in them.
    """
    if not isinstance(value, dict):
        found = f"holds a {type(value).__name__} where an object with keys is expected"
        raise DataError(Problem(case="", file=source, found=found, next="write {...}"))
    try:
        return record.model_validate(value)
    except ValidationError as error:
        problems = [_problem(record, value, item, source) for item in error.errors()]
        raise DataError(problems) from error


def _problem(record: type[BaseModel], value: Any, item: Any, source: str) -> Problem:
    place = ".".join(str(part) for part in item["loc"])
    known = _keys_at(record, item["loc"][:-1])
    if item["type"] == "extra_forbidden":
        return Problem(
            case="",
            file=source,
            found=f"unknown key '{place}'",
            next=nearest(str(item["loc"][-1]), known) or "remove it",
        )
    if item["type"] == "missing":
        present = value
        for part in item["loc"][:-1]:
            present = present[part] if isinstance(present, (dict, list)) else {}
        strangers = [key for key in present if key not in known] if isinstance(present, dict) else []
        close = difflib.get_close_matches(str(item["loc"][-1]), strangers, n=1)
        hint = f"did you mean it by '{close[0]}'?" if close else "add it"
        return Problem(case="", file=source, found=f"key '{place}' is missing", next=hint)
    message = str(item["msg"]).removeprefix("Value error, ")
    return Problem(case="", file=source, found=f"'{place}': {message}", next=f"found {item['input']!r:.80}")


def _keys_at(record: Any, location: tuple[Any, ...]) -> list[str]:
    """The valid keys at a place inside a record, following nested records, lists and dictionaries."""
    for part in location:
        fields = getattr(record, "model_fields", None)
        if fields is not None and part in fields:
            record = fields[part].annotation
        arguments = [a for a in getattr(record, "__args__", ()) if hasattr(a, "model_fields")]
        record = arguments[-1] if arguments else record
    return list(getattr(record, "model_fields", {}))


def nearest(name: str, choices: list[str]) -> str:
    """A hint that names the nearest valid choice, or all of them when none is near."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of {', '.join(choices)}" if choices else ""
