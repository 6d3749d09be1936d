"""A label array to an image file that lies exactly where the image it belongs to lies."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.files import whole_file
from autoseg.core.geometry import Geometry
from autoseg.io.label_table import add_label_table, nifti_extensions
from autoseg.io.nifti_write import write_nifti_like
from autoseg.io.text_header import copy_nrrd_place
from autoseg.io.volume_file import READERS, ending, image_of, is_nifti, read_geometry

# Headers whose voxels lie in a second file.
DETACHED = (".nhdr", ".mhd")


def write_labels(
    path: Path, labels: NDArray[np.integer], *, like: Path | Geometry, names: Mapping[int, str] | None = None
) -> None:
    """Write a label volume on the grid of the image file `like`, whole or not at all.

    Args:
        path: its ending says the format: .nii.gz, .nii, .nrrd, .nhdr, .mha or .mhd.
        labels: (Z, Y, X) in canonical orientation, file values of an integer type.
        like: geometry, or an image file whose stored orientation and geometry the output takes over. When both have
            the same format, SimpleITK reads back the same spacing, origin and direction to the last bit.
        names: file value -> name, without background. Written into the file with a colour per value: in NRRD as the
            segments that 3D Slicer shows, in NIfTI as the label table (header extension) that Connectome Workbench
            shows. MetaImage (.mha, .mhd) has no place that a viewer reads, so names change nothing there. Line ends
            and control characters become blanks. Voxels and geometry are the same with and without names.

    Raises:
        DataError: `like` cannot be read.
    """
    geometry = like if isinstance(like, Geometry) else read_geometry(like)
    voxels = geometry.orientation.undo(labels)
    assert voxels.shape == geometry.shape, (voxels.shape, geometry.shape)
    assert voxels.dtype.kind in "iu", voxels.dtype
    with (_whole_pair if ending(path) in DETACHED else whole_file)(path) as temporary:
        if isinstance(like, Path) and is_nifti(path) and is_nifti(like):
            write_nifti_like(temporary, voxels, like=like, extensions=nifti_extensions(names) if names else b"")
            return
        try:
            sitk.WriteImage(image_of(voxels, geometry), str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError(errno.EIO, f"cannot be written, is the disk full? ({error})", str(path)) from error
        if isinstance(like, Path) and READERS[ending(path)] == READERS.get(ending(like)) == "NrrdImageIO":
            copy_nrrd_place(like, to=temporary)
        if names:
            add_label_table(temporary, names, shape=voxels.shape)


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
