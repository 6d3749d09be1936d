"""One image file to an array: SimpleITK reads it; what that lets pass is looked for in the file itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.geometry import Geometry
from autoseg.io.nifti_check import REPLACE, SPLIT, Defect, check_nifti, check_nifti_header, not_finite
from autoseg.io.text_header import check_compressed_data

log = logging.getLogger(__name__)

READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
# Cosines are often written with two or three digits; a gantry tilt is far above this.
ROTATION_TOLERANCE = 1e-2

# What SimpleITK would print on standard error is either checked here or raised as an error.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_geometry(path: Path) -> Geometry:
    """Geometry as stored in the header of an image file; the voxels are not read.

    Raises:
        DataError: no image, not 3D with one number per voxel, spacing not positive, direction no rotation.
    """
    return _open(path, header_only=True)[1]


def read_volume(path: Path, *, case: str) -> tuple[NDArray[Any], Geometry]:
    """Read a 3D image: array (Z, Y, X) in its stored orientation and type, and its geometry.

    Raises:
        DataError: as read_geometry; or truncated, a wrong checksum, NaN or infinite voxels. Names `case`.
    """
    with _naming(case):
        reader, geometry = _open(path, header_only=False)
        with _readable(path):
            voxels = sitk.GetArrayFromImage(reader.Execute()).reshape(geometry.shape)
            if not is_nifti(path):
                check_compressed_data(path, n_bytes=voxels.nbytes)
        if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
            _refuse(path, [not_finite(int(np.isnan(voxels).sum()), int(np.isinf(voxels).sum()))])
    return voxels, geometry


def ending(path: Path) -> str:
    """The ending of an image file that says its format (.nii.gz, ...); empty when it is none of READERS."""
    return next((known for known in READERS if path.name.lower().endswith(known)), "")


def is_nifti(path: Path) -> bool:
    """Whether the name of the file says NIfTI."""
    return READERS.get(ending(path)) == "NiftiImageIO"


def _open(path: Path, *, header_only: bool) -> tuple[sitk.ImageFileReader, Geometry]:
    """A reader that has read the header of `path`, and the geometry in it."""
    if not path.is_file():
        found = "is a folder, not an image file" if path.is_dir() else "does not exist"
        _refuse(path, [(found, "check the path")])
    if path.stat().st_size == 0:
        _refuse(path, [("is an empty file", REPLACE)])
    if not ending(path):
        _refuse(path, [("has no known ending", f"use one of {', '.join(READERS)}")])
    with _readable(path):
        if is_nifti(path):
            (check_nifti_header if header_only else check_nifti)(path)
        reader = sitk.ImageFileReader()
        reader.SetImageIO(READERS[ending(path)])
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    return reader, _geometry(reader, path)


def voxels_of(image: sitk.Image) -> tuple[NDArray[Any], Geometry]:
    """Array (Z, Y, X) of a SimpleITK image, in its type, and its geometry.

    Raises:
        DataError: as read_geometry; or NaN or infinite voxels.
    """
    name = Path("SimpleITK image")
    geometry = _geometry(image, name)
    voxels = sitk.GetArrayFromImage(image).reshape(geometry.shape)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        _refuse(name, [not_finite(int(np.isnan(voxels).sum()), int(np.isinf(voxels).sum()))])
    return voxels, geometry


def image_of(voxels: NDArray[Any], geometry: Geometry) -> sitk.Image:
    """A SimpleITK image of an array (Z, Y, X) that lies as `geometry` says."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


def _geometry(header: sitk.ImageFileReader | sitk.Image, path: Path) -> Geometry:
    defects = list(_header_defects(header))
    if defects:
        _refuse(path, defects)
    matrix = np.array(header.GetDirection()).reshape(header.GetDimension(), -1)[:3, :3]
    # Adding 0.0 turns -0.0 into 0.0.
    return Geometry(
        shape=tuple(header.GetSize()[2::-1]),
        spacing_mm=tuple(header.GetSpacing()[2::-1]),
        origin_mm=tuple(value + 0.0 for value in header.GetOrigin()[:3]),
        direction=tuple(float(value) + 0.0 for value in matrix.ravel()),
    )


def _header_defects(reader: sitk.ImageFileReader | sitk.Image) -> Iterator[Defect]:
    dimensions, size = reader.GetDimension(), reader.GetSize()
    if dimensions < 3:
        yield f"is a {dimensions}D image", "stack the slices of a patient into one 3D volume"
        return
    if any(n > 1 for n in size[3:]):
        yield f"is a {dimensions}D image ({'x'.join(map(str, size))})", SPLIT
    is_image = isinstance(reader, sitk.Image)
    components = reader.GetNumberOfComponentsPerPixel() if is_image else reader.GetNumberOfComponents()
    if components > 1:
        yield f"has {components} numbers per voxel", SPLIT
    if min(size) < 1:
        yield f"has no voxels (size {'x'.join(map(str, size))})", REPLACE
    spacing, origin = np.array(reader.GetSpacing()[:3]), np.array(reader.GetOrigin()[:3])
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        found = f"has the spacing {' '.join(f'{value:g}' for value in spacing)} mm (x, y, z)"
        yield found, "set the true, positive spacing in the header"
    matrix = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:3, :3]
    # Written so that NaN counts as wrong.
    if not np.abs(matrix.T @ matrix - np.eye(3)).max() <= ROTATION_TOLERANCE:
        cosines = " ".join(f"{value:.4g}" for value in matrix.ravel())
        found = f"has a direction that is no rotation ({cosines})"
        yield found, "correct the header, or resample the image onto a rectangular grid"
    if not np.isfinite(origin).all():
        found = f"has the origin {' '.join(f'{value:g}' for value in origin)}"
        yield found, "set the true origin in the header"


def _refuse(path: Path, defects: list[Defect]) -> NoReturn:
    raise DataError(Problem(case="", file=path.name, found=found, next=todo) for found, todo in defects)


@contextmanager
def _naming(case: str) -> Iterator[None]:
    """Errors of the block get the case id."""
    try:
        yield
    except DataError as error:
        raise DataError(replace(problem, case=case) for problem in error.problems) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What SimpleITK or the system say about a file becomes a DataError."""
    try:
        yield
    except OSError as error:
        _refuse(path, [(f"cannot be read ({error.strerror})", "check the file and its permissions")])
    except RuntimeError as error:
        log.debug("%s: %s", path, error)
        if "orthonormal" in str(error):
            found = "has a direction that is no rotation (its sform is sheared or singular)"
            _refuse(path, [(found, "set a valid qform, or resample the image onto a rectangular grid")])
        if "allocate memory" in str(error):
            todo = "check the image size in its header, or free memory"
            _refuse(path, [("does not fit into memory", todo)])
        kind = {"NrrdImageIO": "NRRD", "MetaImageIO": "MetaImage"}.get(READERS[ending(path)], "NIfTI")
        found = f"cannot be read as {kind}: it is damaged, truncated or something else"
        _refuse(path, [(found, REPLACE)])
