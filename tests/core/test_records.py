"""Records name each wrong place of a file that a user edited, its line, and the nearest valid key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError, model_validator

from autoseg.core.errors import DataError
from autoseg.core.records import Record, nearest, parse


class Inner(Record):
    size: int
    names: list[str] = Field(default_factory=list)


class Outer(Record):
    title: str = ""
    threshold: float = Field(default=0.5, ge=0, le=1)
    inner: Inner | None = None
    by_name: dict[str, Inner] | None = None
    listed: list[Inner] = Field(default_factory=list)
    mixed: dict[str, int | list[int]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _title_is_lower(self) -> Outer:
        if self.title != self.title.lower():
            raise ValueError("the title must be in lower case")
        return self


def problems_of(value: Any, tmp_path: Path) -> list[tuple[str, str]]:
    path = tmp_path / "outer.json"
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Outer.read(path)
    assert {problem.file for problem in caught.value.problems} == {str(path)}
    return [(problem.found, problem.next) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("value", "found", "todo"),
    [
        ({"treshold": 1}, "unknown key 'treshold' (line 2)", "did you mean 'threshold'?"),
        ({"zzz": 1}, "unknown key 'zzz' (line 2)", "choose one of title, threshold, "),
        ({"inner": {}}, "key 'inner.size' is missing (line 2)", "add it"),
        (
            {"by_name": {"a b": {"size": 1, "nmes": []}}},
            "unknown key 'by_name.a b.nmes' (line 5)",
            "did you mean 'names'?",
        ),
        (
            {"listed": [{"size": 1}, {"size": "x"}]},
            "'listed.1.size': Input should be a valid integer",
            "found 'x'",
        ),
        ({"threshold": 1.5}, "'threshold': Input should be less than or equal to 1 (line 2)", "found 1.5"),
        ({"inner": [1]}, "'inner': Input should be a valid dictionary", "found [1]"),
        ({"title": "Big", "threshold": 1}, "the title must be in lower case", "correct it"),
        (
            {"mixed": {"a": 1, "b": "x"}},
            "'mixed.b': Input should be a valid integer, unable to parse string as an integer, "
            "or Input should be a valid list (line 4)",
            "found 'x'",
        ),
    ],
)
def test_a_wrong_place_is_named_with_its_line(tmp_path: Path, value: Any, found: str, todo: str) -> None:
    (problem,) = problems_of(value, tmp_path)
    assert problem[0].startswith(found)
    assert problem[1].startswith(todo)


def test_a_misspelt_required_key_is_found_from_both_sides(tmp_path: Path) -> None:
    assert problems_of({"inner": {"sise": 3}}, tmp_path) == [
        ("key 'inner.size' is missing (line 2)", "did you mean it by 'sise'?"),
        ("unknown key 'inner.sise' (line 3)", "did you mean 'size'?"),
    ]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = [text for text, _ in problems_of({"title": 3, "threshold": 2, "innre": {}}, tmp_path)]
    assert len(found) == 3
    assert sorted(int(text.rpartition("line ")[2].rstrip(")")) for text in found) == [2, 3, 4]


@pytest.mark.parametrize("value", [[1], "x", 3, None])
def test_what_is_no_object_is_told(tmp_path: Path, value: Any) -> None:
    ((found, todo),) = problems_of(value, tmp_path)
    assert "where an object with keys is expected" in found
    assert todo == "write {...}"


def test_values_outside_a_file_have_no_line() -> None:
    with pytest.raises(DataError) as caught:
        parse(Inner, {"size": 1.5}, source="fold 3")
    (problem,) = caught.value.problems
    assert problem.file == "fold 3"
    assert "line" not in problem.found


def test_nan_is_refused_and_huge_input_is_shortened() -> None:
    with pytest.raises(DataError, match="finite number"):
        parse(Outer, {"threshold": float("nan")}, source="")
    with pytest.raises(DataError) as caught:
        parse(Inner, {"size": "y" * 5000}, source="")
    assert len(str(caught.value)) < 300


def test_a_record_survives_its_file_and_cannot_be_changed(tmp_path: Path) -> None:
    record = Outer(title="ä", by_name={"a": Inner(size=1)}, mixed={"x": [1], "y": 2})
    record.write(tmp_path / "deep" / "record.json")
    assert Outer.read(tmp_path / "deep" / "record.json") == record
    with pytest.raises(ValidationError, match="frozen"):
        record.title = "b"  # type: ignore[misc]


def test_a_changed_copy_is_checked_too() -> None:
    record = Outer()
    assert record.with_changes(threshold=0.1).threshold == 0.1
    assert record.with_changes(inner=Inner(size=2)).inner == Inner(size=2)
    assert record.threshold == 0.5
    with pytest.raises(DataError, match="did you mean 'threshold'"):
        record.with_changes(treshold=0.1)
    with pytest.raises(DataError, match="less than or equal"):
        record.with_changes(threshold=2)


def test_the_nearest_choice_or_all_of_them() -> None:
    assert nearest("3d_fulres", ["2d", "3d_fullres"]) == "did you mean '3d_fullres'?"
    assert nearest("xyz", ["2d", "3d"]) == "choose one of 2d, 3d"
    assert nearest("xyz", []) == ""
