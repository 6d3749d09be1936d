"""The index gives what the cases hold, is made anew when they change, and never hurts a reader of the old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoseg.core.errors import DataError
from autoseg.io.case_store import CaseMeta, CaseStore
from autoseg.io.class_index import build_index, index_file, open_index


def write(store: CaseStore, case: str, seed: int, *, shape: tuple[int, int, int] = (6, 7, 9)) -> None:
    label = np.random.default_rng(seed).integers(0, 4, size=shape).astype(np.int16)
    locations = {key: np.argwhere(label == key).astype(np.int32) for key in (-1, 2, 1, 9)}
    store.write(
        case,
        image=label[None].astype(np.float32),
        label=label,
        locations=locations,
        meta=CaseMeta(key=f"{case} {seed}"),
        patch_size=(4, 4, 4),
    )


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    store = CaseStore(tmp_path / "store")
    for seed, case in enumerate(("b", "a", "class_index")):
        write(store, case, seed)
    return store


def test_the_index_holds_what_the_cases_hold(store: CaseStore) -> None:
    assert build_index(store)
    index = open_index(store.folder)
    assert [*index.cases] == ["a", "b", "class_index"]
    assert index.table.dtype == np.int16
    assert isinstance(index.table, np.memmap)
    for case in index.cases:
        label = store.open(case).label[:]
        assert index.cases[case].shape == label.shape
        assert index.classes(case) == (1, 2)  # nobody has 9, nothing is -1
        for key in (1, 2):
            assert np.array_equal(index.locations(case, key), np.argwhere(label == key))


def test_it_is_made_anew_only_when_a_case_changed(store: CaseStore) -> None:
    build_index(store)
    before = open_index(store.folder)
    rows = np.array(before.locations("a", 1))
    assert not build_index(store)
    write(store, "a", 77)
    assert build_index(store)
    now = open_index(store.folder)
    assert np.array_equal(now.locations("a", 1), np.argwhere(store.open("a").label[:] == 1))
    assert np.array_equal(before.locations("a", 1), rows)  # whoever has the old one open reads on
    assert len([*index_file(store.folder).parent.iterdir()]) == 2


def test_incomplete_and_damaged_cases_are_left_out(store: CaseStore) -> None:
    (store.folder / "a.label.b2nd").unlink()
    (store.folder / "b.json").write_text("{")
    build_index(store)
    assert [*open_index(store.folder).cases] == ["class_index"]


def test_a_store_without_foreground_has_an_empty_table(tmp_path: Path) -> None:
    store = CaseStore(tmp_path)
    label = np.zeros((2, 3, 4), dtype=np.int16)
    image = label[None].astype(np.float32)
    store.write("a", image=image, label=label, locations={}, meta=CaseMeta(key="k"), patch_size=(2, 2, 2))
    build_index(store)
    index = open_index(tmp_path)
    assert index.classes("a") == ()
    assert index.table.shape == (0, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "x", "table": "../../x.npy", "cases": {}}'])
def test_a_damaged_index_is_refused_and_built_anew(store: CaseStore, content: bytes) -> None:
    build_index(store)
    index_file(store.folder).write_bytes(content)
    with pytest.raises(DataError, match="index of classes is"):
        open_index(store.folder)
    assert build_index(store)
    assert len(open_index(store.folder).cases) == 3


def test_a_lost_or_damaged_table_is_told(store: CaseStore) -> None:
    build_index(store)
    (table,) = index_file(store.folder).parent.glob("*.npy")
    np.save(table, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="index of classes is damaged"):
        open_index(store.folder)
    table.unlink()
    with pytest.raises(DataError, match="index of classes is damaged"):
        open_index(store.folder)
    assert build_index(store)
