"""Preprocessed cases on disk: compressed arrays of which a crop can be read without reading the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import blosc2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import whole_file
from autoseg.core.records import Record
from autoseg.io.plain_array import open_plain_array

CHUNK_BYTES = 1 << 20
# A crop of 128 x 128 x 128 from chunks of half a patch and blocks of a quarter takes 7-14 ms on one core.
# LZ4HC saves 6 % of the space for ten times the writing time, ZSTD 15-30 % for two to four times the reading
# time. Labels take half the space with the bit shuffle.
COMPRESSION = {"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1}


class CaseMeta(Record):
    """What a stored case was made from, and what its files hold.

    `key` is a hash of everything the case depends on. `CaseStore.write` fills in the rest: `shape` is
    (C, Z, Y, X), `offsets` are first row and end of each class in the array of locations, `sizes` are the bytes of the
    other files (empty in stores of earlier versions).
    """

    key: str
    shape: tuple[int, int, int, int] = (0, 0, 0, 0)
    offsets: dict[int, tuple[int, int]] = Field(default_factory=dict)
    sizes: dict[str, int] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """One stored case; its arrays are opened on first use and read where they are sliced."""

    folder: Path
    id: str
    meta: CaseMeta

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.meta.shape[1:]

    @cached_property
    def image(self) -> Any:
        """float32 (C, Z, Y, X) on disk; slicing gives NumPy arrays."""
        return self._opened("image")

    @cached_property
    def label(self) -> Any:
        """int16 (Z, Y, X) on disk; slicing gives NumPy arrays."""
        return self._opened("label")

    def locations(self, key: int) -> NDArray[Any]:
        """Voxel coordinates (n, 3), (z, y, x), of one class, a memory map; int16 where the shape allows, or int32."""
        first, end = self.meta.offsets[key]
        return self.all_locations[first:end]

    @cached_property
    def all_locations(self) -> NDArray[Any]:
        """The same of all classes, one after the other."""
        path = _file(self.folder, self.id, "locations.npy")
        try:
            rows: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return rows
        except (OSError, ValueError, EOFError) as error:
            _refuse(self.id, path, error)

    def _opened(self, name: str) -> Any:
        return _open_array(_file(self.folder, self.id, f"{name}.b2nd"), self.id)


@dataclass(frozen=True)
class CaseStore:
    """A folder of cases: CASE.image.b2nd, CASE.label.b2nd, CASE.locations.npy and, then CASE.json."""

    folder: Path

    def write(
        self,
        case_id: str,
        *,
        image: NDArray[np.float32],
        label: NDArray[np.int16],
        locations: Mapping[int, NDArray[np.int32]],
        meta: CaseMeta,
        patch_size: Sequence[int],
    ) -> None:
        """Store a case; killed in between, it leaves none.

        Args:
            case_id: file name of the case.
            image: float32 (C, Z, Y, X).
            label: int16 (Z, Y, X).
            locations: int32 (n, 3) voxel coordinates (z, y, x) per class.
            meta: the key; shape and offsets are filled in.
            patch_size: (z, y, x) of the crops that will be read, by which the chunks are laid out.
        """
        assert image.dtype == np.float32
        assert label.dtype == np.int16
        assert image.shape[1:] == label.shape
        description = _file(self.folder, case_id, "json")
        # From here until it is written anew there is no such case.
        description.unlink(missing_ok=True)
        for name, array, shuffle in (
            ("image", image, blosc2.Filter.SHUFFLE),
            ("label", label, blosc2.Filter.BITSHUFFLE),
        ):
            _write_array(_file(self.folder, case_id, f"{name}.b2nd"), array, patch_size=patch_size, shuffle=shuffle)
        rows = np.concatenate([np.empty((0, 3), dtype=np.int32), *locations.values()])
        rows = rows.astype(coordinate_type(label.shape))
        with whole_file(_file(self.folder, case_id, "locations.npy")) as temporary:
            np.save(temporary, rows, allow_pickle=False)
        ends = np.cumsum([len(found) for found in locations.values()]).tolist()
        offsets = {key: (end - len(locations[key]), end) for key, end in zip(locations, ends, strict=True)}
        sizes = {end: _file(self.folder, case_id, end).stat().st_size for end in FILE_ENDS if end != "json"}
        meta.with_changes(shape=image.shape, offsets=offsets, sizes=sizes).write(description)

    def open(self, case_id: str) -> StoredCase:
        """Open a case. Raises DataError when it is not there or damaged."""
        meta = CaseMeta.read(_file(self.folder, case_id, "json"))
        return StoredCase(folder=self.folder, id=case_id, meta=meta)

    def has(self, case_id: str, key: str) -> bool:
        """Whether the case is complete and was made from the same things."""
        if not all(_file(self.folder, case_id, end).is_file() for end in FILE_ENDS):
            return False
        meta = self._meta(case_id)
        if meta is None or meta.key != key:
            return False
        return all(_file(self.folder, case_id, end).stat().st_size == size for end, size in meta.sizes.items())

    def _meta(self, case_id: str) -> CaseMeta | None:
        try:
            return CaseMeta.read(_file(self.folder, case_id, "json"))
        except DataError:  # damaged, or of another version: there is no such case
            return None

    def case_ids(self) -> list[str]:
        """Ids of the complete cases, sorted."""
        names = (path.name.removesuffix(".json") for path in self.folder.glob("[!.]*.json"))
        complete = (n for n in names if all(_file(self.folder, n, end).is_file() for end in FILE_ENDS))
        return sorted(n for n in complete if self._meta(n) is not None)


class StageMeta(Record):
    """What a stored segmentation was made from: a hash of everything it depends on."""

    key: str


@dataclass(frozen=True)
class StageStore:
    """A folder of segmentations that an earlier stage made of stored cases: CASE.segmentation.b2nd, then CASE.json."""

    folder: Path

    def write(self, case_id: str, segmentation: NDArray[np.int16], *, key: str, patch_size: Sequence[int]) -> None:
        """Store values inside (Z, Y, X) on the grid of the stored case.

        Several processes may do so at once, with the same values, while others read.
        """
        path = _file(self.folder, case_id, "segmentation.b2nd")
        _write_array(path, segmentation, patch_size=patch_size, shuffle=blosc2.Filter.BITSHUFFLE)
        StageMeta(key=key).write(_file(self.folder, case_id, "json"))

    def open(self, case_id: str) -> Any:
        """int16 (Z, Y, X) on disk; slicing gives NumPy arrays. Raises DataError when it is missing or damaged."""
        return _open_array(_file(self.folder, case_id, "segmentation.b2nd"), case_id)

    def key_of(self, case_id: str) -> str | None:
        """What the segmentation was made from; None where there is none."""
        try:
            return StageMeta.read(_file(self.folder, case_id, "json")).key
        except DataError:
            return None


def _write_array(path: Path, array: NDArray[Any], *, patch_size: Sequence[int], shuffle: blosc2.Filter) -> None:
    # chunks of labels have the shape of those of images, which hold 4 bytes per voxel
    chunks, blocks = chunk_layout(array.shape[-3:], patch_size, itemsize=4)
    lead = (1,) * (array.ndim - 3)
    with whole_file(path) as temporary:
        stored = blosc2.empty(
            array.shape,
            array.dtype,
            urlpath=str(temporary),
            mode="w",
            chunks=lead + chunks,
            blocks=lead + blocks,
            cparams={**COMPRESSION, "filters": [shuffle]},
        )
        # all at once: `asarray` goes chunk by chunk through Python, which takes two to ten times as long
        stored[...] = np.ascontiguousarray(array)


def _open_array(path: Path, case_id: str) -> Any:
    # Memory maps spare a system call per chunk; Blosc2 cannot make them on Windows.
    mmap_mode = "r" if os.name == "posix" else None
    try:
        return open_plain_array(path, mmap_mode=mmap_mode, dparams={"nthreads": 1})
    except (OSError, RuntimeError, ValueError) as error:
        _refuse(case_id, path, error)


FILE_ENDS = ("json", "image.b2nd", "label.b2nd", "locations.npy")


def coordinate_type(*shapes: Sequence[int]) -> type[np.int16] | type[np.int32]:
    """The smaller integer type that holds every voxel coordinate of these shapes."""
    longest = max((n for shape in shapes for n in shape), default=0)
    return np.int16 if longest <= np.iinfo(np.int16).max else np.int32


def chunk_layout(
    shape: Sequence[int], patch_size: Sequence[int], *, itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks of half a patch per axis (at most 1 MiB); blocks, the unit of decompression, of a quarter.

    A patch of one slice makes blocks of one slice, but chunks of many: thousands of small chunks are slow to write.
    """
    chunks = [max(1, min(size, -(-patch // 2))) for size, patch in zip(shape, patch_size, strict=True)]
    while np.prod(chunks) * itemsize > CHUNK_BYTES:
        longest = int(np.argmax(chunks))
        chunks[longest] = -(-chunks[longest] // 2)
    blocks = tuple(-(-size // 2) for size in chunks)
    if patch_size[0] == 1:
        chunks[0] = max(1, min(shape[0], CHUNK_BYTES // (chunks[1] * chunks[2] * itemsize)))
    return tuple(chunks), blocks


def _file(folder: Path, case_id: str, end: str) -> Path:
    return folder / f"{case_id}.{end}"


def _refuse(case_id: str, path: Path, error: Exception) -> NoReturn:
    found = f"this preprocessed file is missing or damaged ({error})"
    problem = Problem(case=case_id, file=str(path), found=found, next="delete it and preprocess again")
    raise DataError(problem) from error
