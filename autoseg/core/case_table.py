"""cases.csv: what is known of the cases besides their images, such as sex, site or scanner."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from autoseg.core.errors import DataError, Problem

CASE_TABLE = "cases.csv"
MOST_GROUPS = 12  # a column of more values, such as the age in years, makes no groups


Columns = dict[str, dict[str, str]]  # name -> case -> value


def read_case_table(path: Path, *, cases: set[str], needed: bool = False) -> tuple[Columns, list[Problem]]:
    """Read a table with a column `case` and any others; separated by commas or semicolons.

    Args:
        path: the file.
        cases: ids of which something is to be known; others are passed over.
        needed: whether a missing file is an error; without, it gives no columns.

    Returns:
        (columns, warnings): name -> case -> value, without empty cells, of the columns by which these cases can be
        compared: 2 to 12 different values.

    Raises:
        DataError: the file is no such table, or names a case twice.
    """

    def refused(found: str, todo: str) -> DataError:
        return DataError(Problem(case="", file=str(path), found=found, next=todo))

    if not needed and not path.exists():
        return {}, []
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise refused(f"cannot be read ({error})", "save it as CSV in UTF-8") from error
    separator = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    try:
        rows = [*csv.DictReader(lines, delimiter=separator)]
    except csv.Error as error:
        raise refused(f"is no CSV table ({error})", "look for a quote that is not closed") from error
    if not rows or "case" not in rows[0]:
        raise refused("has no column 'case' with rows below it", "name the column of the case ids 'case'")
    for row in rows:
        row["case"] = (row["case"] or "").strip()
    rows = [row for row in rows if row["case"]]
    if twice := next((name for name, n in Counter(row["case"] for row in rows).items() if n > 1), None):
        raise refused(f"names the case {twice} twice", "remove one of the rows")
    warnings = []
    if not any(row["case"] in cases for row in rows):
        found, todo = "names none of these cases", "write the ids as the label files are called, without ending"
        warnings.append(Problem(case="", file=path.name, found=found, next=todo))
    columns: Columns = {}
    for column in [name for name in (rows[0] if rows else ()) if name and name != "case"]:
        values = {row["case"]: value for row in rows if row["case"] in cases and (value := (row[column] or "").strip())}
        n_values = len(set(values.values()))
        if 2 <= n_values <= MOST_GROUPS:
            columns[column] = values
        elif n_values > MOST_GROUPS:
            found, todo = f"column {column} has {n_values} values", "not compared; write groups, such as 40-60, instead"
            warnings.append(Problem(case="", file=path.name, found=found, next=todo))
    return columns, warnings
