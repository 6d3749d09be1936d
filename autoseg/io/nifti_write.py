"""Write a label volume as NIfTI-1 with the geometry fields of another NIfTI file, bit for bit.

Writers that go through a rotation matrix round: the quaternion would come back changed in its last bits.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.io.compressed import content_blocks
from autoseg.io.nifti_header import DATA_OFFSET, HEADER, HEADER_BYTES, PLACE_FIELDS, VOXEL_TYPES, parse_header

# Label volumes shrink as well with 4 as with 9, in a fraction of the time.
GZIP_LEVEL = 4
EXTENSIONS_FOLLOW = b"\1\0\0\0"  # the four bytes between header and extensions


def write_nifti_like(path: Path, voxels: NDArray[np.integer], *, like: Path, extensions: bytes = b"") -> None:
    """Write integer `voxels` (Z, Y, X), in the stored orientation of `like`, to `path` (.nii or .nii.gz).

    The same input gives the same bytes: no time stamp, no file name inside. `extensions` are whole header extensions,
    each with its size and code.
    """
    source = parse_header(next(content_blocks(like)))
    assert source is not None, like
    header = np.zeros((), dtype=HEADER.newbyteorder("<"))
    codes = {voxel_type: code for code, voxel_type in VOXEL_TYPES.items()}
    header["sizeof_hdr"] = HEADER_BYTES
    header["regular"] = b"r"
    header["dim"] = (3, *voxels.shape[::-1], 1, 1, 1, 1)
    header["datatype"] = codes[voxels.dtype.newbyteorder("=")]
    header["bitpix"] = voxels.dtype.itemsize * 8
    header["pixdim"][:4] = source["pixdim"][:4]
    header["vox_offset"] = DATA_OFFSET + len(extensions)
    header["scl_slope"] = 1
    header["descrip"] = b"autoseg"
    header["magic"] = b"n+1"
    for field in PLACE_FIELDS:
        header[field] = source[field]
    with open(path, "wb") as file:
        compress = path.name.endswith(".gz")
        stream = gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) if compress else file
        stream.write(header.tobytes() + (EXTENSIONS_FOLLOW if extensions else bytes(4)) + extensions)
        for plane in voxels:
            stream.write(np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).tobytes())
        if compress:
            stream.close()
