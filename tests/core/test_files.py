"""Files are whole or absent, JSON is strict, and a key changes with what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.core.errors import DataError
from autoseg.core.files import content_key, json_line, read_json, whole_file, write_bytes, write_json


def test_a_new_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "case.nii.gz"
    with whole_file(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
    assert target.read_bytes() == b"half"
    assert [path.name for path in target.parent.iterdir()] == ["case.nii.gz"]


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt(), SystemExit(143)])
def test_an_error_leaves_nothing_new_and_keeps_the_old(tmp_path: Path, error: BaseException) -> None:
    old = tmp_path / "old.json"
    old.write_text("old")

    def fail(path: Path) -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error

    for path in (old, tmp_path / "new.json"):
        with pytest.raises(type(error)):
            fail(path)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert old.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass
    assert [*tmp_path.iterdir()] == []


def test_a_file_is_replaced(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_bytes(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == b"two"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [1, float("-inf")]}])
def test_written_json_is_strict(tmp_path: Path, value: Any) -> None:
    (tmp_path / "a.json").write_text("1")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text() == "1"


def test_json_survives_with_its_letters(tmp_path: Path) -> None:
    value = {"Fälle": ["ä b", '"', None, 1.5, True, {"x": []}]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Fälle" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b'{"a": 1,\n "b": 2,}', "line 2"),
        (b"", "line 1, column 1"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": [1, -Infinity]}', "holds -Infinity"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        (b'{"a": "\xff"}', "no UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "digits"),
    ],
)
def test_what_is_no_strict_json_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_or_a_folder_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_json(path)


TEXT = """
{ "a": {"b": 1,
        "labels": "x"},
  "labels" :
    { "kidney, left": [1,
         2, {"deep\\u00e4": 3}],
      "a": {"labels": 0}
    }, "e\\"f": 5
}"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ((), None),
        (("nowhere",), None),
        (("a",), 2),
        (("labels",), 4),
        (("a", "labels"), 3),
        (("labels", "kidney, left"), 5),
        (("labels", "kidney, left", 1), 6),
        (("labels", "kidney, left", 2, "deepä"), 6),
        (("labels", "a", "labels"), 7),
        (("labels", "missing", "a"), 4),
        (("labels", "a", "labels", "int"), 7),
        (('e"f',), 8),
    ],
)
def test_the_line_of_a_place_is_found(place: tuple[str | int, ...], line: int | None) -> None:
    json.loads(TEXT)
    assert json_line(TEXT, place) == line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(JSON, st.sampled_from([None, 1]), st.booleans(), st.randoms())
def test_every_place_of_any_json_is_found(value: Any, indent: int | None, ascii_only: bool, random: Any) -> None:
    text, place = json.dumps(value, indent=indent, ensure_ascii=ascii_only), []
    while isinstance(value, (dict, list)) and value:
        key = random.choice([*value]) if isinstance(value, dict) else random.randrange(len(value))
        place.append(key)
        value = value[key]
    line = json_line(text, place)
    assert (line is None) == (not place)
    if place and indent:
        found = text.split("\n")[line - 1].strip()
        start = place[-1] if isinstance(place[-1], str) else value
        assert found.startswith(json.dumps(start, ensure_ascii=ascii_only)[:2])


def test_the_key_depends_on_every_part_and_file(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for path in files:
        path.write_bytes(b"xy")
    keys = [
        content_key(),
        content_key(1),
        content_key("1"),
        content_key(1, 2),
        content_key([1, 2]),
        content_key({"a": 1}),
        content_key({"a": 2}),
        content_key(files=files[:1]),
        content_key(files=files),
        content_key(1, files=files),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)
    assert content_key(1, files=files) == keys[-1]
    files[1].write_bytes(b"xz")
    assert content_key(1, files=files) != keys[-1]


def test_the_key_ignores_the_order_of_keys_and_where_a_file_lies(tmp_path: Path) -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * (3 << 20))
    assert content_key(files=[tmp_path / "a"]) == content_key(files=[tmp_path / "b"])
