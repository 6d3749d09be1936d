"""What is wrong with a NIfTI file itself.

SimpleITK reads a truncated .nii.gz without complaint, turns NaN and infinity into 0, and a spacing of 0
into 1. So the file is looked at before SimpleITK sees it: one pass through its bytes, 1 MiB at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.core.errors import DataError, Problem
from autoseg.io.compressed import GZIP_MAGIC, DamagedError, content_blocks
from autoseg.io.nifti_header import (
    COMPOSITE_TYPES,
    DATA_OFFSET,
    HEADER_BYTES,
    VOXEL_TYPES,
    is_nifti2,
    parse_header,
)

Defect = tuple[str, str]
REPLACE = "copy or export the file again"
SPLIT = "save one 3D file per channel (CASE_0000, CASE_0001, ...)"


def check_nifti_header(path: Path) -> None:
    """Check the header of a .nii or .nii.gz file; its voxels are not looked at.

    Raises:
        DataError: all defects found, with the file name and no case id.
    """
    _guarded(path, header_only=True)


def check_nifti(path: Path) -> None:
    """Check the header, the amount of data, the checksum, and that all voxels are finite. Memory: some MiB.

    Raises:
        DataError: all defects found, with the file name and no case id.
    """
    _guarded(path, header_only=False)


def _guarded(path: Path, *, header_only: bool) -> None:
    try:
        defects = _defects(path, header_only=header_only)
    except DamagedError as damage:
        defects = [(str(damage), REPLACE)]
    if defects:
        raise DataError(Problem(case="", file=path.name, found=found, next=todo) for found, todo in defects)


def _defects(path: Path, *, header_only: bool) -> list[Defect]:
    blocks = content_blocks(path)
    first = b""
    while len(first) < DATA_OFFSET and (block := next(blocks, b"")):
        first += block
    header = parse_header(first)
    if is_nifti2(first):
        return [("is a NIfTI-2 file, which cannot be read", "convert it to NIfTI-1 or NRRD")]
    if header is None:
        short = 0 < len(first) < HEADER_BYTES and first[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
        return [(f"is truncated: it ends after {len(first)} bytes" if short else "is no NIfTI image", REPLACE)]
    defects = list(_header_defects(header))
    with open(path, "rb") as stream:
        if path.name.endswith(".nii") and stream.read(2) == GZIP_MAGIC:
            defects.append(("is gzip-compressed", "rename it to end in .nii.gz"))
    if not defects and not header_only:
        defects = list(_data_defects(header, chain([first], blocks)))
    return defects


def _header_defects(header: Any) -> Iterator[Defect]:
    if header["magic"] != b"n+1":
        yield "is one half of an .hdr/.img pair", "convert the pair to a single .nii.gz file"
    dimensions, sizes = int(header["dim"][0]), header["dim"][1:].tolist()
    if not 1 <= dimensions <= 7 or any(size < 1 for size in sizes[: min(dimensions, 3)]):
        yield f"has a damaged header (dim {' '.join(map(str, header['dim']))})", REPLACE
    elif dimensions < 3:
        yield f"is a {dimensions}D image", "stack the slices of a patient into one 3D volume"
    elif any(size > 1 for size in sizes[3:dimensions]):
        yield f"is a {dimensions}D image ({'x'.join(map(str, sizes[:dimensions]))})", SPLIT
    if int(header["datatype"]) in COMPOSITE_TYPES:
        yield f"has several numbers per voxel (NIfTI datatype {header['datatype']})", SPLIT
    elif int(header["datatype"]) not in VOXEL_TYPES:
        todo = "convert it to 16-bit integers or 32-bit floats"
        yield f"has the unknown NIfTI datatype {header['datatype']}", todo
    spacing = header["pixdim"][1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        found = f"has the spacing {' '.join(f'{value:g}' for value in spacing)} mm (x, y, z)"
        yield found, "set the true, positive spacing (pixdim) in the header"
    for code, fields in (("qform_code", ("quatern", "qoffset")), ("sform_code", ("srow",))):
        if header[code] > 0 and not all(np.isfinite(header[field]).all() for field in fields):
            found = f"has NaN or infinity in the {code[:5]} of its header"
            yield found, "set the true position and direction"
    if not (np.isfinite(header["vox_offset"]) and 0 <= header["vox_offset"] < 2**31):
        yield f"has a damaged header (vox_offset {header['vox_offset']:g})", REPLACE


def _data_defects(header: Any, blocks: Iterator[bytes]) -> Iterator[Defect]:
    """Walk through the whole content: the amount of data, the checksum (inside `blocks`), finite voxels."""
    voxel_type = VOXEL_TYPES[int(header["datatype"])].newbyteorder(header["dim"].dtype.byteorder)
    # An offset inside the header stands for "right behind it", as in the NIfTI reference library.
    start = max(int(header["vox_offset"]), HEADER_BYTES)
    end = start + int(np.prod(header["dim"][1:4], dtype=np.int64)) * voxel_type.itemsize
    seen, pending, n_nan, n_infinite = 0, b"", 0, 0
    for block in blocks:
        if voxel_type.kind == "f":
            pending += block[max(start - seen, 0) : max(end - seen, 0)]
            whole = len(pending) - len(pending) % voxel_type.itemsize
            voxels = np.frombuffer(pending[:whole], dtype=voxel_type)
            pending = pending[whole:]
            if not np.isfinite(voxels).all():
                n_nan += int(np.isnan(voxels).sum())
                n_infinite += int(np.isinf(voxels).sum())
        seen += len(block)
    if seen < end:
        yield f"is truncated: it holds {max(seen - start, 0)} of {end - start} bytes of voxels", REPLACE
    if n_nan or n_infinite:
        yield not_finite(n_nan, n_infinite)


def not_finite(n_nan: int, n_infinite: int) -> Defect:
    """The sentences for NaN or infinite voxels, in any format."""
    found = f"holds {n_nan} NaN and {n_infinite} infinite voxels"
    return found, "replace them by finite numbers (for example 0)"
