"""A label array to an image file that lies exactly where the image it belongs to lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.files import whole_file
from autoseg.io.nifti_write import write_nifti_like
from autoseg.io.text_header import copy_nrrd_place
from autoseg.io.volume_file import READERS, ending, is_nifti, read_geometry

# Headers whose voxels lie in a second file.
DETACHED = (".nhdr", ".mhd")


def write_labels(path: Path, labels: NDArray[np.integer], *, like: Path) -> None:
    """Write a label volume on the grid of the image file `like`, whole or not at all.

    Args:
        path: its ending says the format: .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.
        labels: (Z, Y, X) in canonical orientation, file values of an integer type.
        like: image file whose stored orientation and geometry the output takes over. When both have the same
            format, SimpleITK reads back the same spacing, origin and direction to the last bit.

    Raises:
        DataError: `like` cannot be read.
    """
    geometry = read_geometry(like)
    voxels = geometry.orientation.undo(labels)
    assert voxels.shape == geometry.shape, (voxels.shape, geometry.shape)
    assert voxels.dtype.kind in "iu", voxels.dtype
    with (_whole_pair if ending(path) in DETACHED else whole_file)(path) as temporary:
        if is_nifti(path) and is_nifti(like):
            write_nifti_like(temporary, voxels, like=like)
            return
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
        image.SetSpacing(geometry.spacing_mm[::-1])
        image.SetOrigin(geometry.origin_mm)
        image.SetDirection(geometry.direction)
        sitk.WriteImage(image, str(temporary), useCompression=True)
        if READERS[ending(path)] == READERS.get(ending(like)) == "NrrdImageIO":
            copy_nrrd_place(like, to=temporary)


@contextmanager
def _whole_pair(path: Path) -> Iterator[Path]:
    """As whole_file for a header with a data file beside it: the header, naming the other, is moved last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{os.getpid()}-{path.name}")
    folder.mkdir()
    try:
        yield folder / path.name
        parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
        for part in parts:
            with open(part, "rb") as stream:
                os.fsync(stream.fileno())
        # An old header must not meet the new data.
        path.unlink(missing_ok=True)
        for part in parts:
            os.replace(part, path.parent / part.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
