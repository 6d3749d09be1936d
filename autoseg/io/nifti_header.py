"""The NIfTI-1 header as a NumPy record: where its fields lie, and which of them place the voxels.

Source: nifti1.h of the NIfTI data format working group (nifti.nimh.nih.gov).
"""

from __future__ import annotations

from typing import Any

import numpy as np

HEADER_BYTES = 348
# Header, then four bytes that say whether extensions follow.
DATA_OFFSET = 352

_FIELDS: dict[str, tuple[object, int]] = {
    "sizeof_hdr": ("i4", 0),
    "regular": ("S1", 38),
    "dim": (("i2", 8), 40),
    "datatype": ("i2", 70),
    "bitpix": ("i2", 72),
    "pixdim": (("f4", 8), 76),
    "vox_offset": ("f4", 108),
    "scl_slope": ("f4", 112),
    "xyzt_units": ("u1", 123),
    "descrip": ("S80", 148),
    "qform_code": ("i2", 252),
    "sform_code": ("i2", 254),
    "quatern": (("f4", 3), 256),
    "qoffset": (("f4", 3), 268),
    "srow": (("f4", (3, 4)), 280),
    "magic": ("S4", 344),
}
HEADER = np.dtype(
    {
        "names": list(_FIELDS),
        "formats": [form for form, _ in _FIELDS.values()],
        "offsets": [offset for _, offset in _FIELDS.values()],
        "itemsize": HEADER_BYTES,
    }
)
PLACE_FIELDS = ("xyzt_units", "qform_code", "sform_code", "quatern", "qoffset", "srow")

VOXEL_TYPES: dict[int, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in {
        2: "u1", 512: "u2", 768: "u4", 1280: "u8", 256: "i1", 4: "i2", 8: "i4", 1024: "i8", 16: "f4", 64: "f8"
    }.items()
}  # fmt: skip
# RGB, complex and the like: several numbers per voxel.
COMPOSITE_TYPES = (32, 128, 1792, 2048, 2304)


def parse_header(first: bytes) -> Any:
    """The header (a record) from the first 348 bytes of a file; None when they are no NIfTI-1 header."""
    if len(first) < HEADER_BYTES:
        return None
    for header_type in (HEADER.newbyteorder("<"), HEADER.newbyteorder(">")):
        header = np.frombuffer(first, dtype=header_type, count=1)[0]
        if header["sizeof_hdr"] == HEADER_BYTES and header["magic"] in (b"n+1", b"ni1"):
            return header
    return None


def is_nifti2(first: bytes) -> bool:
    """Whether the first bytes of a file are those of a NIfTI-2 header."""
    return first[4:7] in (b"n+2", b"ni2")
