"""Where every class of every stored case lies: one memory-mapped table for a whole case store.

Drawing a foreground sample costs one look-up in a dictionary and one read of a row, however many cases there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import content_key, whole_file
from autoseg.core.records import Record
from autoseg.io.case_store import CaseStore, coordinate_type

FOLDER = "class_index"  # a folder of its own: no case can have the names in it


class IndexedCase(Record):
    """Shape (Z, Y, X) of one case and, per class that it holds, the first row and the end in the table."""

    shape: tuple[int, int, int]
    rows: dict[int, tuple[int, int]]


class _Contents(Record):
    key: str
    table: str
    cases: dict[str, IndexedCase]


@dataclass(frozen=True, kw_only=True)
class ClassIndex:
    """The index of a case store; `table` is a memory map, int16 or int32 (n, 3), of voxel coordinates (z, y, x)."""

    cases: dict[str, IndexedCase]
    table: NDArray[Any]

    def classes(self, case: str) -> tuple[int, ...]:
        """Keys of the classes that a case holds, ascending; ANNOTATED (-1) comes first where it is kept."""
        return tuple(sorted(self.cases[case].rows))

    def locations(self, case: str, key: int) -> NDArray[Any]:
        """Voxel coordinates (n, 3) of one class in one case."""
        first, end = self.cases[case].rows[key]
        return self.table[first:end]


def build_index(store: CaseStore) -> bool:
    """Write the index of all complete cases of a store unless it is there already; returns whether it had to be.

    Memory needed is that of one case's locations. Killed in between, the index from before stays.
    """
    folder = store.folder / FOLDER
    metas = {case: store.open(case).meta for case in store.case_ids()}
    key = content_key({case: meta.key for case, meta in metas.items()})
    old = _contents(folder)
    if old is not None and old.key == key and (folder / old.table).is_file():
        return False
    cases, total = {}, 0
    for case, meta in metas.items():
        rows = {k: (total + first, total + end) for k, (first, end) in meta.offsets.items() if end > first}
        cases[case] = IndexedCase(shape=meta.shape[1:], rows=rows)
        total += max((end for _, end in meta.offsets.values()), default=0)
    name = f"{key}.npy"  # another name for other contents: a reader of the old table keeps it
    with whole_file(folder / name) as temporary:
        kind = coordinate_type(*(indexed.shape for indexed in cases.values()))
        table = np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=(total, 3))
        first = 0
        for case in cases:
            part = store.open(case).all_locations
            table[first : first + len(part)] = part
            first += len(part)
        del table  # writes it out
    _Contents(key=key, table=name, cases=cases).write(folder / "index.json")
    for other in folder.glob("[!.]*.npy"):
        if other.name != name:
            other.unlink(missing_ok=True)
    return True


def index_file(store: Path) -> Path:
    """The file that changes whenever the index in a case store's folder does."""
    return store / FOLDER / "index.json"


def open_index(store: Path) -> ClassIndex:
    """The index in a case store's folder. Raises DataError when it is missing or damaged."""
    folder = store / FOLDER
    contents = _contents(folder)
    try:
        if contents is not None:
            table = np.load(folder / contents.table, mmap_mode="r", allow_pickle=False)
            return ClassIndex(cases=contents.cases, table=table)
        reason = "missing or damaged"
    except (OSError, ValueError, EOFError) as error:
        reason = f"damaged ({error})"
    found = f"the index of classes is {reason}"
    raise DataError(Problem(case="", file=str(folder), found=found, next="preprocess again"))


def _contents(folder: Path) -> _Contents | None:
    path = folder / "index.json"
    try:
        return _Contents.read(path) if path.is_file() else None
    except DataError:  # damaged or of another version: it is built anew
        return None
