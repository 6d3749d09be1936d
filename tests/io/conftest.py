"""Small images in every format, and NIfTI files put together byte by byte."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

CODES = {
    "u1": 2,
    "i2": 4,
    "i4": 8,
    "f4": 16,
    "f8": 64,
    "i1": 256,
    "u2": 512,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
}


def build_nifti(
    voxels: np.ndarray, *, order: str = "<", offset: float = 352, gap: bytes = b"", **fields: object
) -> bytes:
    """A NIfTI-1 file of `voxels` (Z, Y, X), written with struct alone; `fields` replace header fields."""
    code = CODES[voxels.dtype.str[1:]]
    values: dict[str, object] = {
        "sizeof_hdr": 348,
        "dim": (3, *voxels.shape[::-1], 1, 1, 1, 1),
        "datatype": code,
        "bitpix": voxels.dtype.itemsize * 8,
        "pixdim": (1, 1.5, 2, 3, 0, 0, 0, 0),
        "vox_offset": offset,
        "xyzt_units": 2,
        "qform_code": 1,
        "sform_code": 0,
        "quatern": (0, 0, 0),
        "qoffset": (-10, 20, 30),
        "srow": (1.5, 0, 0, -10, 0, 2, 0, 20, 0, 0, 3, 30),
        "magic": b"n+1\0",
        **fields,
    }
    header = bytearray(352)
    for name, (form, at) in {
        "sizeof_hdr": ("i", 0), "dim": ("8h", 40), "datatype": ("h", 70), "bitpix": ("h", 72),
        "pixdim": ("8f", 76), "vox_offset": ("f", 108), "xyzt_units": ("B", 123), "qform_code": ("h", 252),
        "sform_code": ("h", 254), "quatern": ("3f", 256), "qoffset": ("3f", 268), "srow": ("12f", 280),
        "magic": ("4s", 344),
    }.items():  # fmt: skip
        value = values[name]
        struct.pack_into(order + form, header, at, *(value if isinstance(value, tuple) else (value,)))
    return bytes(header) + gap + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()


@pytest.fixture
def nifti(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes `build_nifti` to a file: nifti(voxels, name="a.nii.gz", **fields) -> path."""

    def write(voxels: np.ndarray, *, name: str = "case_07_0000.nii.gz", **options: object) -> Path:
        content = build_nifti(voxels, **options)  # type: ignore[arg-type]
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes an array (Z, Y, X) with SimpleITK: stored(voxels, name, spacing=...) -> path."""

    def write(
        voxels: np.ndarray,
        name: str = "case_07_0000.nii.gz",
        *,
        spacing: tuple[float, ...] = (0.7, 1.1, 2.5),
        origin: tuple[float, ...] = (-10.5, 20.25, 300.125),
        direction: np.ndarray | None = None,
        compress: bool = True,
    ) -> Path:
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(spacing[: image.GetDimension()])
        image.SetOrigin(origin[: image.GetDimension()])
        if direction is not None:
            image.SetDirection(np.asarray(direction, dtype=float).ravel())
        sitk.WriteImage(image, str(tmp_path / name), useCompression=compress)
        return tmp_path / name

    return write
