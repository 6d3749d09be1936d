from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

from autoseg.core.errors import DataError
from autoseg.io.case_store import CHUNK_BYTES, CaseMeta, CaseStore, chunk_layout

RNG = np.random.default_rng(4)
IMAGE = RNG.normal(size=(2, 21, 34, 17)).astype(np.float32)
LABEL = RNG.integers(-1, 3, size=(21, 34, 17)).astype(np.int16)
LOCATIONS = {
    0: np.argwhere(LABEL == 1).astype(np.int32),
    1: np.argwhere(LABEL == 2).astype(np.int32),
    5: np.empty((0, 3), dtype=np.int32),
    -1: np.argwhere(LABEL >= 0).astype(np.int32),
}
META = CaseMeta(key="abc")


def _write(store: CaseStore, case: str = "case_07", *, image=IMAGE, locations=LOCATIONS, meta=META) -> None:
    store.write(case, image=image, label=LABEL, locations=locations, meta=meta, patch_size=(8, 16, 16))


@pytest.fixture
def store(tmp_path):
    return CaseStore(tmp_path / "default__3d_fullres")


def test_a_stored_case_comes_back_whole(store):
    _write(store)
    case = store.open("case_07")
    assert (case.id, case.meta.key, case.shape) == ("case_07", "abc", (21, 34, 17))
    assert case.image.shape == IMAGE.shape
    assert case.label.shape == LABEL.shape
    assert np.array_equal(case.image[...], IMAGE)
    assert case.image.dtype == np.float32
    assert np.array_equal(case.label[...], LABEL)
    assert case.label.dtype == np.int16


def test_crops_equal_slices_of_the_array(store):
    _write(store)
    case = store.open("case_07")
    for _ in range(30):
        low = [int(RNG.integers(0, size)) for size in LABEL.shape]
        crop = tuple(slice(a, int(RNG.integers(a + 1, size + 1))) for a, size in zip(low, LABEL.shape, strict=True))
        assert np.array_equal(case.image[(slice(None), *crop)], IMAGE[(slice(None), *crop)])
        assert np.array_equal(case.label[crop], LABEL[crop])


def test_crops_over_the_border_are_padded_like_arrays(store):
    _write(store)
    case = store.open("case_07")
    box = [[-3, 5], [30, 40], [-2, 20]]
    assert np.array_equal(crop_and_pad_nd(case.image, box, 0), crop_and_pad_nd(IMAGE, box, 0))
    assert np.array_equal(crop_and_pad_nd(case.label, box, -1), crop_and_pad_nd(LABEL, box, -1))


def test_views_that_are_not_contiguous_are_stored(store):
    view = np.asfortranarray(IMAGE)[:, ::-1]
    _write(store, image=view)
    assert np.array_equal(store.open("case_07").image[...], view)


def test_locations_are_memory_maps_per_class(store):
    _write(store)
    case = store.open("case_07")
    for key, expected in LOCATIONS.items():
        assert np.array_equal(case.locations(key), expected)
        assert case.locations(key).dtype == np.int16
    assert isinstance(case.locations(1), np.memmap)
    assert case.locations(1).base is not None
    with pytest.raises(KeyError):
        case.locations(7)


@pytest.mark.parametrize("locations", [{}, {1: np.empty((0, 3), dtype=np.int32)}])
def test_a_case_without_foreground_is_stored(store, locations):
    _write(store, locations=locations)
    assert store.has("case_07", "abc")
    for key in locations:
        assert store.open("case_07").locations(key).shape == (0, 3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 30), (130, 1, 7)])
def test_thin_volumes_are_stored(store, shape):
    image, label = RNG.normal(size=(1, *shape)).astype(np.float32), np.ones(shape, dtype=np.int16)
    store.write("a", image=image, label=label, locations={}, meta=META, patch_size=(64, 64, 64))
    assert np.array_equal(store.open("a").image[...], image)


@pytest.mark.parametrize("patch", [(128, 128, 128), (1, 512, 512), (20, 320, 256), (3, 5, 7), (160, 160, 160)])
@pytest.mark.parametrize("shape", [(300, 512, 512), (1, 20, 1000), (2, 2, 2)])
def test_chunks_are_small_parts_of_a_patch(patch, shape):
    chunks, blocks = chunk_layout(shape, patch, itemsize=4)
    assert np.prod(chunks) * 4 <= CHUNK_BYTES
    for block, chunk, whole, size in zip(blocks, chunks, patch, shape, strict=True):
        assert 1 <= block <= min(size, (whole + 1) // 2)
        # slices are read one by one, through blocks; their chunks may hold more of them
        assert block <= chunk <= (size if whole == 1 else min(size, (whole + 1) // 2))


def test_has_notices_another_key_and_missing_or_damaged_files(store):
    assert not store.has("case_07", "abc")
    _write(store)
    assert store.has("case_07", "abc")
    assert not store.has("case_07", "abd")
    for end in ("image.b2nd", "label.b2nd", "locations.npy", "json"):
        _write(store)
        (store.folder / f"case_07.{end}").unlink()
        assert not store.has("case_07", "abc")
        assert store.case_ids() == []
    _write(store)
    (store.folder / "case_07.json").write_text('{"key": "ab')
    assert not store.has("case_07", "abc")


def test_writing_again_replaces_the_case(store):
    _write(store)
    _write(store, image=IMAGE + 1, locations={2: LOCATIONS[1]}, meta=CaseMeta(key="new"))
    assert store.has("case_07", "new")
    assert not store.has("case_07", "abc")
    case = store.open("case_07")
    assert np.array_equal(case.image[...], IMAGE + 1)
    assert len(list(store.folder.iterdir())) == 4


def test_case_ids_lists_complete_cases_of_any_name(store):
    assert store.case_ids() == []
    names = ["b", "a.image", "-dash", "ünï cödé", "quo'te", "a[1]*", "x.json"]
    for name in names:
        _write(store, name)
    (store.folder / "other.json").write_text("{}")
    assert store.case_ids() == sorted(names)
    assert all(store.has(name, "abc") and store.open(name).image.shape == IMAGE.shape for name in names)


@pytest.mark.parametrize("step", range(4))
def test_a_case_whose_writing_fails_is_absent(store, monkeypatch, step):
    _write(store)
    replace, calls = os.replace, []

    def fail_at_step(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) > step:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr("os.replace", fail_at_step)
    with pytest.raises(OSError, match="disk full"):
        _write(store, meta=CaseMeta(key="new"))
    monkeypatch.undo()
    assert not store.has("case_07", "abc")
    assert not store.has("case_07", "new")
    assert store.case_ids() == []
    _write(store, meta=CaseMeta(key="new"))
    assert store.has("case_07", "new")
    assert len(list(store.folder.iterdir())) == 4


KILLED = """
import os, sys
import numpy as np
from autoseg.io import case_store
from autoseg.io.case_store import CaseMeta, CaseStore
from pathlib import Path
array = np.ones((1, 20, 20, 20), dtype=np.float32)
save = np.save
np.save = lambda *a, **k: os.kill(os.getpid(), 9)
CaseStore(Path(sys.argv[1])).write("case_07", image=array, label=array[0].astype(np.int16), locations={},
                                   meta=CaseMeta(key="new"), patch_size=(8, 8, 8))
"""


def test_a_killed_process_leaves_no_half_case(store):
    _write(store)
    done = subprocess.run([sys.executable, "-c", KILLED, str(store.folder)], timeout=120, check=False)
    assert done.returncode == -9
    assert store.case_ids() == []
    assert not store.has("case_07", "new")
    assert not store.has("case_07", "abc")


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
@pytest.mark.parametrize("end", ["image.b2nd", "label.b2nd", "locations.npy"])
def test_damaged_files_are_errors_that_say_what_to_do(store, end, damage):
    _write(store)
    path = store.folder / f"case_07.{end}"
    path.unlink() if damage is None else path.write_bytes(damage)
    case = store.open("case_07")
    with pytest.raises(DataError, match="preprocess again"):
        case.locations(0) if end == "locations.npy" else getattr(case, end.split(".")[0])


def test_locations_are_never_unpickled(store):
    _write(store)
    np.save(store.folder / "case_07.locations.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="missing or damaged"):
        store.open("case_07").locations(0)


def test_opening_an_absent_case_is_an_error(store):
    with pytest.raises(DataError, match="cannot be read"):
        store.open("case_08")


@pytest.mark.parametrize("end", ["image.b2nd", "label.b2nd", "locations.npy"])
def test_a_case_with_a_file_cut_off_is_not_there(store, end):
    _write(store)
    path = store.folder / f"case_07.{end}"
    path.write_bytes(path.read_bytes()[:-1])
    assert not store.has("case_07", "abc")
    _write(store)
    assert store.has("case_07", "abc")
    meta = CaseMeta.read(store.folder / "case_07.json")  # as an earlier version wrote it
    meta.with_changes(sizes={}).write(store.folder / "case_07.json")
    assert store.has("case_07", "abc")
