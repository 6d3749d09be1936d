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
    found: dict[Place, list[str]] = {}
    todo: dict[Place, str] = {}
    for item in errors:
        place, message, advice = _finding(record, value, item)
        found.setdefault(place, []).append(message)
        todo.setdefault(place, advice)
    problems = []
    for place, messages in found.items():
        line = json_line(text, place) if text else None
        subject = f"'{'.'.join(map(str, place))}'" if place else ""
        sentence = " ".join(part for part in (subject, " or ".join(dict.fromkeys(messages))) if part)
        sentence += f" (line {line})" if line else ""
        problems.append(Problem(case="", file=source, found=sentence, next=todo[place]))
    return problems


def _finding(record: type[BaseModel], value: dict[str, Any], item: Any) -> tuple[Place, str, str]:
    """Place, what is wrong there, and what to do about it."""
    location = item["loc"]
    if item["type"] == "extra_forbidden":
        known = [key for key in _keys_at(record, location[:-1]) if key not in _at(value, location[:-1])]
        return location, "is no known key", nearest(str(location[-1]), known) or "remove it"
    if item["type"] == "missing":
        known = _keys_at(record, location[:-1])
        strangers = [key for key in _at(value, location[:-1]) if key not in known]
        close = difflib.get_close_matches(str(location[-1]), strangers, n=1)
        return location, "is missing", f"did you mean it by '{close[0]}'?" if close else "add it"
    place: Place = ()
    for part in location:  # pydantic adds names of types behind the keys
        if part not in _at(value, place) and part not in _keys_at(record, place):
            break
        place = (*place, part)
    message = str(item["msg"]).removeprefix("Value error, ")
    told = not isinstance(item["input"], (dict, BaseModel))
    return place, f"is wrong: {message}", f"found {item['input']!r:.80}" if told else "correct it"


def _at(value: Any, place: Place) -> dict[Any, Any]:
    """The members of what stands at a place, empty where it has none or is not there."""
    for part in place:
        value = dict(enumerate(value)) if isinstance(value, list) else value
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, list):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}


def _keys_at(record: Any, place: Place) -> list[str]:
    """The valid keys at a place inside a record, through nested records, lists and dictionaries."""
    for part in place:
        fields = getattr(record, "model_fields", {})
        record = _record_in(fields[part].annotation) if part in fields else record
    return list(getattr(record, "model_fields", {}))


def _record_in(annotation: Any) -> Any:
    """The record class inside an annotation such as dict[str, Configuration] | None; None where there is none."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_record_in, getattr(annotation, "__args__", ()))), None)


def nearest(name: str, choices: list[str]) -> str:
    """A hint that names the nearest valid choice, or all of them when none is near."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of {', '.join(choices)}" if choices else ""
