"""NRRD and MetaImage headers: what they say about compressed data and about position.

SimpleITK reads a compressed MetaImage with a wrong checksum or too little data without complaint, and garbage
when a local one does not tell its compressed size; of a compressed NRRD it ignores the last bytes.
Sources: teem.sourceforge.net/nrrd/format.html, and the MetaIO documentation at itk.org.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoseg.core.errors import DataError, Problem
from autoseg.io.compressed import DamagedError, inflated
from autoseg.io.nifti_check import REPLACE

LONGEST_HEADER = 1 << 20
NRRD_PLACE_FIELDS = ("space", "space dimension", "space directions", "space origin")


@dataclass(frozen=True, kw_only=True)
class TextHeader:
    """Fields of a header (names in lower case), and the position of the first byte behind it."""

    fields: dict[str, str]
    end: int


def parse_text_header(first: bytes) -> TextHeader:
    """Parse the header of a NRRD file (ends at an empty line) or a MetaImage (ends with ElementDataFile)."""
    is_nrrd = first.startswith(b"NRRD")
    separator = ":" if is_nrrd else "="
    fields: dict[str, str] = {}
    end = 0
    for line in first.splitlines(keepends=True):
        end += len(line)
        name, found, value = line.decode("utf-8", "surrogateescape").strip().partition(separator)
        if is_nrrd and not line.strip():
            break
        # In a NRRD "key:=value" is free text and "#" begins a comment.
        if found and not name.startswith("#") and not (is_nrrd and value.startswith("=")):
            fields[name.strip().lower()] = value.strip()
        if not is_nrrd and name.strip().lower() == "elementdatafile":
            break
    return TextHeader(fields=fields, end=end)


def with_data_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Image files, each followed by the file that a detached header (.mhd, .nhdr) names for its voxels.

    Lists and number patterns of data files are not followed.
    """
    for path in paths:
        yield path
        if path.name.lower().endswith((".mhd", ".nhdr")) and path.is_file():
            with open(path, "rb") as stream:
                name = _data_file(parse_text_header(stream.read(LONGEST_HEADER)).fields)
            if name and name.lower() != "local" and (path.parent / name).is_file():
                yield path.parent / name


def _data_file(fields: dict[str, str]) -> str:
    """Name of the one file with the voxels, "local" for the header's own; empty for lists and number patterns."""
    name = fields.get("elementdatafile", fields.get("data file", fields.get("datafile", "local")))
    return "" if "%" in name or re.match(r"list\b", name, flags=re.IGNORECASE) else name


def check_compressed_data(path: Path, *, n_bytes: int) -> None:
    """Verify the checksum and length of the compressed voxels of a NRRD or MetaImage; others pass unseen.

    Args:
        path: .nrrd, .nhdr, .mha or .mhd file.
        n_bytes: size of all voxels after decompression.

    Raises:
        DataError: with the file name and no case id.
    """
    with open(path, "rb") as stream:
        header = parse_text_header(stream.read(LONGEST_HEADER))
    fields = header.fields
    data_file = _data_file(fields)
    if "elementdatafile" in fields:
        compressed = fields.get("compresseddata", "").lower().startswith(("t", "1"))
        if compressed and data_file.lower() == "local" and not fields.get("compresseddatasize", "0").strip("0"):
            found = "is compressed but has no CompressedDataSize in its header, so its end is unknown"
            raise DataError(Problem(case="", file=path.name, found=found, next="save it again with another program"))
    else:
        compressed = fields.get("encoding", "").lower() in ("gzip", "gz")
        compressed = compressed and all(fields.get(f"{unit} skip", "0") == "0" for unit in ("line", "byte"))
    if not compressed or not data_file:  # lists and number patterns are left to SimpleITK
        return
    local = data_file.lower() == "local"
    try:
        with open(path if local else path.parent / data_file, "rb") as stream:
            stream.seek(header.end if local else 0)
            n_found = sum(len(block) for block in inflated(stream))
        if n_found < n_bytes:
            raise DamagedError(f"is truncated: it holds {n_found} of {n_bytes} bytes of voxels")
    except DamagedError as damage:
        raise DataError(Problem(case="", file=path.name, found=str(damage), next=REPLACE)) from damage


def copy_nrrd_place(like: Path, *, to: Path) -> None:
    """Give the NRRD file `to` the position of the NRRD file `like` in its very words.

    Spacing is the length of a direction vector there, so writing numbers anew changes their last bits.
    Nothing is done when `like` has more than three axes or states no directions.
    """
    with open(like, "rb") as stream:
        place = parse_text_header(stream.read(LONGEST_HEADER)).fields
    if place.get("dimension") != "3" or "space directions" not in place:
        return
    content = to.read_bytes()
    end = parse_text_header(content).end
    names = [name.encode() for name in NRRD_PLACE_FIELDS]
    lines = [line for line in content[:end].splitlines() if line and line.partition(b":")[0] not in names]
    # The space comes before the sizes and directions: parsers need its number of axes.
    at = next(i for i, line in enumerate(lines) if line.startswith(b"sizes:"))
    before = [f"{name}: {place[name]}".encode() for name in NRRD_PLACE_FIELDS[:2] if name in place]
    after = [f"{name}: {place[name]}".encode() for name in NRRD_PLACE_FIELDS[2:] if name in place]
    header = b"\n".join([*lines[:at], *before, lines[at], *after, *lines[at + 1 :], b"", b""])
    to.write_bytes(header + content[end:])
