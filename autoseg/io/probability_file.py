"""Class probabilities of a volume on disk: chunked, quantised to 8 bits, written in slabs."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import whole_file
from autoseg.core.geometry import Orientation
from autoseg.core.labels import LabelScheme
from autoseg.io.plain_array import open_plain_array

LEVELS = 255
LARGEST_ERROR = 0.5 / LEVELS  # of a stored probability
COLLECTED_BYTES = 2**25  # of rows, before they are compressed
MEMBER = "autoseg"
AGAIN = "delete it, and predict (or, for validation cases, train) again with --save_probabilities"
COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.NOFILTER], "nthreads": 2}


class ProbabilityFile:
    """A file of probabilities (n_outputs, Z, Y, X) on the grid of an image file, written along any of its axes.

    Values are whole numbers from 0 to 255, each within 1/510 of the true probability times 255. Use as a context; the
    file is whole or absent.
    """

    def __init__(
        self,
        path: Path,
        *,
        scheme: LabelScheme,
        shape: tuple[int, int, int],
        box: tuple[tuple[int, int], ...],
        orientation: Orientation,
    ) -> None:
        """Prepare a file.

        Args:
            path: ends in .b2nd.
            scheme: what the outputs stand for; written into the file, which thus needs no other to be understood.
            shape: (Z, Y, X) as the image file stores it.
            box: per axis of the rows (start, stop) of the region that `add` will give; the rest is background.
            orientation: from the stored array to the axes of the rows.
        """
        self._path, self._scheme = path, scheme
        self._shape, self._box, self._orientation = shape, box, orientation
        self._rows: list[NDArray[np.uint8]] = []
        self._next = box[0][0]
        plane = scheme.n_outputs * int(np.prod([stop - start for start, stop in box[1:]]))
        self._thickness = max(1, min(32, COLLECTED_BYTES // max(1, plane)))

    def __enter__(self) -> ProbabilityFile:
        self._file = whole_file(self._path)
        temporary = self._file.__enter__()
        try:
            with self._disk():
                self._create(temporary)
        except BaseException:
            self._file.__exit__(*sys.exc_info())
            raise
        return self

    def _create(self, temporary: Path) -> None:
        along = self._orientation.axes[0]
        chunks = [1, *(min(n, 64) for n in self._shape)]
        chunks[1 + along] = min(self._shape[along], self._thickness)
        self._array: Any = blosc2.zeros(
            (self._scheme.n_outputs, *self._shape),
            dtype=np.uint8,
            chunks=tuple(chunks),
            urlpath=str(temporary),
            mode="w",
            cparams=COMPRESSION,
        )
        declared = self._scheme.declared
        self._array.schunk.vlmeta[MEMBER] = {
            "outputs": [*self._scheme.outputs],
            "labels": {name: value if isinstance(value, int) else [*value] for name, value in declared.items()},
            "regions_class_order": [*self._scheme.regions_class_order],
            "levels": LEVELS,
        }
        inside = tuple(stop - start for start, stop in self._box)
        if not self._scheme.has_regions and inside != tuple(self._shape[axis] for axis in self._orientation.axes):
            self._array[0:1] = np.full((1, *self._shape), LEVELS, dtype=np.uint8)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """What Blosc2 raises when it cannot write becomes an OSError."""
        try:
            yield
        except RuntimeError as error:
            raise OSError(errno.EIO, f"cannot be written, is the disk full? ({error})", str(self._path)) from error

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._flush()
                assert self._next == self._box[0][1], "rows are missing"
        except BaseException:
            error = sys.exc_info()
            raise
        finally:
            del self._array
            self._file.__exit__(*error)

    def add(self, probabilities: NDArray[np.float32]) -> None:
        """Add the next rows (n_outputs, rows, Y, X) of the box."""
        scaled = probabilities * LEVELS
        self._rows.append(np.rint(scaled, out=scaled).astype(np.uint8))
        if sum(block.shape[1] for block in self._rows) >= self._thickness:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        block, self._rows = np.concatenate(self._rows, axis=1), []
        ranges = [(self._next, self._next + block.shape[1]), *self._box[1:]]
        self._next += block.shape[1]
        place = self._orientation.undo_box(ranges, self._shape)
        stored = np.ascontiguousarray(self._orientation.undo(block))
        assert stored.shape[1:] == tuple(part.stop - part.start for part in place), stored.shape
        with self._disk():
            self._array[(slice(None), *place)] = stored


@dataclass(frozen=True, kw_only=True)
class StoredProbabilities:
    """An open file of probabilities: `levels` are uint8 (n_outputs, Z, Y, X) as its image is stored, read in parts."""

    path: Path
    scheme: LabelScheme
    levels: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) of the image."""
        return tuple(self.levels.shape[1:])

    @property
    def rows(self) -> tuple[int, int]:
        """An axis along which parts are read with the least to unpack, and how many rows a chunk has there."""
        thickness = [chunk / size for chunk, size in zip(self.levels.chunks[1:], self.shape, strict=True)]
        axis = int(np.argmin(thickness))
        return axis, int(self.levels.chunks[1 + axis])

    def block(self, axis: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Levels of some rows along an axis. Raises DataError: they are damaged."""
        part = (slice(None),) * (1 + axis) + (slice(start, stop),)
        try:
            levels: NDArray[np.uint8] = self.levels[part]
        except Exception as error:  # as for opening: damaged bytes make Blosc2 raise whatever
            _refuse(self.path, f"is no intact file of probabilities ({error})")
        return levels

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """All of them, float32 (n_outputs, Z, Y, X). Raises DataError: they are damaged."""
        scaled: NDArray[np.float32] = self.block(0, 0, self.shape[0]).astype(np.float32) / np.float32(LEVELS)
        return scaled


def open_probabilities(path: Path) -> StoredProbabilities:
    """Open what a ProbabilityFile has written.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    if not path.is_file():
        _refuse(path, "does not exist")
    try:
        array = open_plain_array(path)
        facts = array.schunk.vlmeta[MEMBER]
        scheme = LabelScheme(
            declared={
                str(name): int(value) if isinstance(value, int) else tuple(int(v) for v in value)
                for name, value in facts["labels"].items()
            },
            regions_class_order=tuple(int(value) for value in facts["regions_class_order"]),
        )
        fits = len(scheme.outputs) == scheme.n_outputs == array.shape[0] and array.ndim == 4
        if array.dtype != np.uint8 or not fits or facts["levels"] != LEVELS:
            raise ValueError("it holds other numbers")
    except Exception as error:  # damaged bytes make Blosc2 raise whatever
        _refuse(path, f"is no intact file of probabilities ({error})")
    return StoredProbabilities(path=path, scheme=scheme, levels=array)


def _refuse(path: Path, found: str) -> NoReturn:
    raise DataError(Problem(case="", file=str(path), found=found, next=AGAIN))
