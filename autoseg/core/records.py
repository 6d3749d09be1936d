"""Records that cross JSON: frozen, checked where they are read; errors name the place and the nearest key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import json_line, read_json, write_json

R = TypeVar("R", bound="Record")
Place = tuple[str | int, ...]


class Record(BaseModel):
    """Base of all JSON records: frozen, no unknown keys, no NaN; change by `with_changes(key=value)`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    def with_changes(self: R, **changes: Any) -> R:
        """A copy with some fields changed, checked like a record that was read from a file."""
        return parse(type(self), {**self.model_dump(), **changes}, source="")

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read and check the record. Raises DataError naming every wrong key and its line."""
        return parse(cls, read_json(path), source=path)


def parse(record: type[R], value: Any, *, source: str | Path) -> R:
    """Check a decoded JSON value against a record class.

    Args:
        record: the class.
        value: what the JSON text holds.
        source: what to call it in errors. A Path is the file that holds the value: lines are named then.

    Raises:
        DataError: one Problem per wrong place.
    """
    if not isinstance(value, dict):
        found = f"holds a {type(value).__name__} where an object with keys is expected"
        raise DataError(Problem(case="", file=str(source), found=found, next="write {...}"))
    try:
        return record.model_validate(value)
    except ValidationError as error:
        text = source.read_text("utf-8-sig") if isinstance(source, Path) else ""
        raise DataError(_problems(record, value, error.errors(), str(source), text)) from error


def _problems(
    record: type[BaseModel], value: dict[str, Any], errors: list[Any], source: str, text: str
) -> list[Problem]:
    """One Problem per place: where a value may have several types, each of them has complained."""
    findings: dict[Place, tuple[str, str]] = {}
    for item in errors:
        place, found, todo = _finding(record, value, item)
        if place in findings:
            found = f"{findings[place][0]}, or {found.partition(': ')[2]}"
        findings[place] = found, todo
    problems = []
    for place, (found, todo) in findings.items():
        line = json_line(text, place) if text else None
        sentence = f"{found} (line {line})" if line else found
        problems.append(Problem(case="", file=source, found=sentence, next=todo))
    return problems


def _finding(record: type[BaseModel], value: dict[str, Any], item: Any) -> tuple[Place, str, str]:
    """Place, what is wrong there, and what to do about it."""
    location, here = item["loc"], item["loc"][:-1]
    dotted = ".".join(map(str, location))
    if item["type"] == "extra_forbidden":
        hint = nearest(str(location[-1]), _keys_at(record, here)) or "remove it"
        return location, f"unknown key '{dotted}'", hint
    if item["type"] == "missing":
        known = _keys_at(record, here)
        strangers = [key for key in _members(value, here) if isinstance(key, str) and key not in known]
        close = difflib.get_close_matches(str(location[-1]), strangers, n=1)
        hint = f"did you mean it by '{close[0]}'?" if close else "add it"
        return location, f"key '{dotted}' is missing", hint
    place: Place = ()
    for part in location:  # pydantic puts names of types behind the keys
        if part not in _members(value, place) and part not in _keys_at(record, place):
            break
        place = (*place, part)
    message = str(item["msg"]).removeprefix("Value error, ")
    found = f"'{'.'.join(map(str, place))}': {message}" if place else message
    return place, found, "correct it" if isinstance(item["input"], dict) else f"found {item['input']!r:.80}"


def _members(value: Any, place: Place) -> dict[Any, Any]:
    """The members of the object or list at a place, by key or number; none where neither is there."""
    for part in (*place, None):
        value = dict(enumerate(value)) if isinstance(value, list) else value
        value = value if isinstance(value, dict) else {}
        if part is not None:
            value = value.get(part)
    return value  # type: ignore[no-any-return]


def _keys_at(record: Any, place: Place) -> list[str]:
    """The valid keys at a place inside a record, through nested records, lists and dictionaries."""
    for part in place:
        fields = getattr(record, "model_fields", {})
        record = _record_in(fields[part].annotation) if part in fields else record
    return list(getattr(record, "model_fields", {}))


def _record_in(annotation: Any) -> Any:
    """The record class inside an annotation such as dict[str, Configuration] | None; None without one."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_record_in, getattr(annotation, "__args__", ()))), None)


def nearest(name: str, choices: list[str]) -> str:
    """A hint that names the nearest valid choice, or all of them when none is near."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of {', '.join(choices)}" if choices else ""
