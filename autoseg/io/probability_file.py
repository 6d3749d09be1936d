"""Class probabilities of a volume on disk: chunked, quantised to 8 bits, written in slabs."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import whole_file
from autoseg.core.geometry import Orientation
from autoseg.io.plain_array import open_plain_array

LEVELS = 255
LARGEST_ERROR = 0.5 / LEVELS  # of a stored probability
SLAB_BYTES = 2**25  # of rows that are collected before they are compressed
MEMBER = "autoseg"
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
        outputs: Sequence[str],
        exclusive: bool,
        shape: tuple[int, int, int],
        box: tuple[tuple[int, int], ...],
        orientation: Orientation,
    ) -> None:
        """Prepare a file.

        Args:
            path: ends in .b2nd.
            outputs: a name per channel of the probabilities.
            exclusive: whether they add up to 1, the first channel being the background.
            shape: (Z, Y, X) as the image file stores it.
            box: per axis of the rows (start, stop) of the region that `add` will give; the rest is background.
            orientation: from the stored array to the axes of the rows.
        """
        self._path, self._outputs, self._exclusive = path, list(outputs), exclusive
        self._shape, self._box, self._orientation = shape, box, orientation
        self._rows: list[NDArray[np.uint8]] = []
        self._next = box[0][0]
        plane = len(outputs) * int(np.prod([stop - start for start, stop in box[1:]]))
        self._thickness = max(1, min(32, SLAB_BYTES // max(1, plane)))

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
            (len(self._outputs), *self._shape),
            dtype=np.uint8,
            chunks=tuple(chunks),
            urlpath=str(temporary),
            mode="w",
            cparams=COMPRESSION,
        )
        kind = "exclusive" if self._exclusive else "independent"
        self._array.schunk.vlmeta[MEMBER] = {"outputs": self._outputs, "kind": kind, "levels": LEVELS}
        inside = tuple(stop - start for start, stop in self._box)
        if self._exclusive and inside != tuple(self._shape[axis] for axis in self._orientation.axes):
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
        self._rows.append(np.rint(probabilities * LEVELS).astype(np.uint8))
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


def read_probabilities(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Probabilities float32 (n_outputs, Z, Y, X) of a file, and the names of the outputs.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    if not path.is_file():
        _refuse(path, "does not exist")
    try:
        array = open_plain_array(path)
        facts = array.schunk.vlmeta[MEMBER]
        names = [str(name) for name in facts["outputs"]]
        if array.dtype != np.uint8 or array.ndim != 4 or len(names) != array.shape[0] or facts["levels"] != LEVELS:
            raise ValueError("it holds other numbers")
        return array[:].astype(np.float32) / LEVELS, names
    except Exception as error:  # as for opening: damaged bytes make Blosc2 raise whatever
        _refuse(path, f"is no intact file of probabilities ({error})")


def _refuse(path: Path, found: str) -> NoReturn:
    raise DataError(Problem(case="", file=str(path), found=found, next="predict again with --save_probabilities"))
