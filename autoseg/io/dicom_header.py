"""The header of one DICOM file: is it a slice of a volume, where does it lie, and to which series does it belong."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from autoseg.core.errors import DataError, Problem
from autoseg.io.volume_file import ROTATION_TOLERANCE

log = logging.getLogger(__name__)

DEFLATED = "1.2.840.10008.1.2.1.99"  # transfer syntax: the whole file is compressed, not its pixels
EXPORT = "export the series again from the archive or scanner"
CONVERT = "convert the series to NIfTI (for example with dcm2niix) and use that file"

TAGS = [
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("SeriesDescription", "SeriesNumber", "PatientID", "StudyDate", "InstanceNumber", "NumberOfFrames", "Rows"),
    *("Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices"),
    *("SliceThickness", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One image of a series.

    position_mm is the centre of the first pixel (x, y, z) and orientation the cosines of a row and of a column,
    as DICOM has them (LPS). shape and pixel_mm are (y, x). depth_mm is what the header calls the distance or
    thickness of slices, if anything. A stored value v means v * slope + intercept.
    """

    path: Path
    uid: str
    number: int | None
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_mm: tuple[float, ...]
    shape: tuple[int, int]
    depth_mm: float | None
    slope: float
    intercept: float


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself; `slice` is None where it cannot be part of a volume, and `defect` says why."""

    path: Path
    series_uid: str
    study_uid: str
    number: int | None
    description: str
    modality: str
    patient_id: str
    study_date: str
    slice: Slice | None = None
    defect: tuple[str, str] = ("", "")


def read_header(path: Path) -> Header | None:
    """Header of a DICOM image; None for what is no DICOM file or no image (segmentation, report, plan, ...).

    Raises:
        DataError: the file cannot be read, or is named .dcm and is no DICOM file.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(132)
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise DataError(Problem(case="", file=str(path), found=found, next="check its permissions")) from error
    # Old files lack the preamble: they begin with the low groups, little endian.
    if start[128:] != b"DICM" and start[:2] not in (b"\x02\x00", b"\x08\x00"):
        if path.suffix.lower() == ".dcm":
            found = "is no DICOM file, in spite of its name" if start else "is an empty file"
            raise DataError(Problem(case="", file=str(path), found=found, next=f"{EXPORT}, or remove the file"))
        log.debug("%s is no DICOM file", path)
        return None
    try:
        with warnings.catch_warnings():
            # Each value that breaks a rule of the standard is a warning; those that matter are looked at here.
            warnings.simplefilter("ignore")
            # pydicom would unpack such a file whole, however large it becomes, to show its header
            if start[128:] == b"DICM" and read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
                raise ValueError("deflated")
            return _parse(path, dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True))
    except Exception as error:  # pydicom has no common class for what damaged bytes lead to
        log.debug("%s: %s", path, error)
        if start[128:] != b"DICM":
            return None
        found = "is a damaged DICOM file"
        raise DataError(Problem(case="", file=str(path), found=found, next=f"{EXPORT}, or remove the file")) from error


def holds_pixels(path: Path) -> bool:
    """Whether a file has pixels and, where they are compressed, does not end within them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "PixelData" in dcmread(path, specific_tags=["PixelData"], defer_size=1024, force=True)
    except Exception as error:  # as above
        log.debug("%s: %s", path, error)
        return False


def _parse(path: Path, header: FileDataset) -> Header | None:
    if not _is_image(header):
        log.debug("%s is no image", path)
        return None
    content = _slice(path, header)
    number = _number(header, "SeriesNumber")
    return Header(
        path=path,
        series_uid=_text(header, "SeriesInstanceUID"),
        study_uid=_text(header, "StudyInstanceUID"),
        number=None if number is None else int(number),
        description=_text(header, "SeriesDescription"),
        modality=_text(header, "Modality"),
        patient_id=_text(header, "PatientID"),
        study_date=_text(header, "StudyDate"),
        slice=content if isinstance(content, Slice) else None,
        defect=("", "") if isinstance(content, Slice) else content,
    )


def _is_image(header: FileDataset) -> bool:
    """Whether the file holds an image as scanners make it; by its class, and without a known one by its content."""
    kind = _class(header)
    if kind.name != kind:
        return "Image Storage" in kind.name and "Non Image" not in kind.name
    if "Rows" not in header and "SOPInstanceUID" not in header:
        raise ValueError("the file ends before it says what it is")
    return "Rows" in header and "ImagePositionPatient" in header


def _slice(path: Path, header: FileDataset) -> Slice | tuple[str, str]:
    """The slice that the file holds, or (found, next): why it is none that can be used."""
    kind = _text(header, "PhotometricInterpretation")
    rows, columns, bits = (_number(header, key) for key in ("Rows", "Columns", "BitsStored"))
    if (_number(header, "NumberOfFrames") or 1) > 1 or "Enhanced" in _class(header).name:
        return "holds its slices in one file (enhanced or multi-frame DICOM), which is not read", CONVERT
    if not (rows and columns and bits and min(rows, columns) >= 1 and 1 <= bits <= 32):
        return "is a damaged or truncated DICOM image: its size or number of bits is missing", EXPORT
    if _number(header, "SamplesPerPixel", default=1) != 1:
        return "is a colour picture, not a slice of a volume", "leave it out"
    if kind not in ("MONOCHROME2", ""):
        return f"stores its brightness inverted or as colours ({kind})", CONVERT
    position, orientation = _numbers(header, "ImagePositionPatient", 3), _numbers(header, "ImageOrientationPatient", 6)
    if not (position and orientation):
        return "does not say where in the patient it lies (no valid ImagePositionPatient, ImageOrientationPatient)", (
            "export the original slices; for screen shots and single X-ray pictures there is no such thing"
        )
    axes = np.array(orientation).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > ROTATION_TOLERANCE:
        cosines = " ".join(f"{value:.4g}" for value in orientation)
        return f"has rows and columns that are not perpendicular (ImageOrientationPatient {cosines})", EXPORT
    pixel = _numbers(header, "PixelSpacing", 2)
    if not (pixel and min(pixel) > 0):
        return "does not say how large its pixels are (no valid, positive PixelSpacing)", EXPORT
    if "ModalityLUTSequence" in header:
        return "gives the meaning of its values by a table (Modality LUT)", CONVERT
    slope, intercept = _number(header, "RescaleSlope", default=1.0), _number(header, "RescaleIntercept", default=0.0)
    # GDCM takes a slope of 0 for 1
    if not slope or intercept is None or 2**bits * abs(slope) + abs(intercept) > np.finfo(np.float32).max:
        return "has no valid RescaleSlope and RescaleIntercept", EXPORT
    number = _number(header, "InstanceNumber")
    return Slice(
        path=path,
        uid=_text(header, "SOPInstanceUID"),
        number=None if number is None else int(number),
        position_mm=position,
        orientation=orientation,
        pixel_mm=pixel,
        shape=(int(rows), int(columns)),
        depth_mm=abs(_number(header, "SpacingBetweenSlices") or _number(header, "SliceThickness") or 0) or None,
        slope=slope,
        intercept=intercept,
    )


def _class(header: FileDataset) -> UID:
    return UID(_text(header, "SOPClassUID") or str(header.file_meta.get("MediaStorageSOPClassUID", "")))


def _text(header: FileDataset, key: str) -> str:
    """Value as text without what pads it and without control characters; empty where it is missing or unreadable."""
    text = str(_value(header, key) or "")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _number(header: FileDataset, key: str, *, default: float | None = None) -> float | None:
    """One finite number, `default` where it is missing or empty, None where it is something else."""
    if _value(header, key) in (None, ""):
        return default
    return next(iter(_numbers(header, key, 1)), None)


def _numbers(header: FileDataset, key: str, count: int) -> tuple[float, ...]:
    """Exactly `count` finite numbers; empty where there are others or none."""
    value = _value(header, key)
    try:
        numbers = tuple(float(part) for part in ([value] if count == 1 else value))
    except (TypeError, ValueError, OverflowError):
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


def _value(header: FileDataset, key: str) -> Any:
    """What pydicom makes of an element; "?" where the bytes are nothing of their kind."""
    try:
        return header.get(key)
    except Exception as error:  # as for the file as a whole
        log.debug("%s: %s", key, error)
        return "?"
