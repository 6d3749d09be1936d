from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.core.case_table import read_case_table
from autoseg.core.errors import DataError

CASES = {"a", "b", "c", *(f"n{i}" for i in range(20))}


def write(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_bytes(text.encode("utf-8-sig"))
    return path


@pytest.mark.parametrize("separator", [",", ";"])
def test_columns_of_the_cases_that_count_without_empty_cells(tmp_path: Path, separator: str) -> None:
    text = 'sex,case,site,one\nf,a,"x",1\nm,b, y ,1\n,c,x,1\nf,stranger,z,2\n'.replace(",", separator)
    columns, warnings = read_case_table(write(tmp_path, text), cases=CASES)
    assert columns == {"sex": {"a": "f", "b": "m"}, "site": {"a": "x", "b": "y", "c": "x"}}
    assert warnings == []


def test_a_column_of_many_values_is_not_compared(tmp_path: Path) -> None:
    text = "case,age\n" + "".join(f"n{i},{i}\n" for i in range(13))
    columns, (warning,) = read_case_table(write(tmp_path, text), cases=CASES)
    assert columns == {}
    assert "13 values" in warning.found


def test_a_table_of_other_cases_is_told(tmp_path: Path) -> None:
    columns, (warning,) = read_case_table(write(tmp_path, "case,sex\nx.nii.gz,f\ny,m\n"), cases=CASES)
    assert columns == {}
    assert "names none of these cases" in warning.found


def test_without_a_table_there_are_no_columns(tmp_path: Path) -> None:
    assert read_case_table(tmp_path / "cases.csv", cases=CASES) == ({}, [])
    with pytest.raises(DataError, match="cannot be read"):
        read_case_table(tmp_path / "cases.csv", cases=CASES, needed=True)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no column 'case'"),
        (b"case\n", "no column 'case'"),
        (b"id,sex\na,f\n", "no column 'case'"),
        (b"case,sex\na,f\na,m\n", "names the case a twice"),
        (b"\xff\xfe", "cannot be read"),
        (b'case,sex\na,"' + b"x" * 200_000, "quote that is not closed"),
        (b"case,sex\n,\n,\na,f\na ,m\n", "names the case a twice"),
        (b"case,sex\na,f\nb\n", None),
        (b"case,sex\na,f,9\nb,m\n", None),
    ],
)
def test_what_is_no_table_is_refused_and_short_rows_are_not(tmp_path: Path, content: bytes, match: str | None) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    if match is None:
        read_case_table(path, cases=CASES)
    else:
        with pytest.raises(DataError, match=match):
            read_case_table(path, cases=CASES)
