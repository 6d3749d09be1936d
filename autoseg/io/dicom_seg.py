"""A label array to a DICOM SEG object that belongs to the series it was made from; highdicom writes it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from autoseg import __version__
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import whole_file
from autoseg.core.geometry import Geometry
from autoseg.io.dicom import DicomSeries
from autoseg.io.dicom_header import EXPORT

log = logging.getLogger(__name__)

# What a segmentation must repeat of its images, or nobody could tell what it belongs to.
NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
# The standard allows these to be empty, highdicom wants them to be there.
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
# Longest text of the kinds LO and PN.
MOST_LETTERS = 64


def write_dicom_seg(
    path: Path,
    labels: NDArray[np.integer],
    *,
    series: DicomSeries,
    geometry: Geometry,
    names: Mapping[int, str],
    colours: Mapping[int, tuple[int, int, int]] | None = None,
    algorithm: str,
) -> None:
    """Write labels as a binary DICOM SEG on the slices of a series, whole or not at all.

    Segments are numbered from 1 in the order of the label values, as the standard wants; the SegmentDescription of
    each keeps its value. Every name gets a segment, also when no voxel has its value: so one structure has the same
    number in all patients, and "looked for and not found" is told from "not looked for". Frames without a
    voxel are left out. What a structure is in medical terms is not known: the codes are the general ones
    (category Anatomical Structure, type Organ), the label is the name.

    Args:
        path: file to write.
        labels: (Z, Y, X), an integer type, in the order of `series.files`; values not in `names` are background.
        series: the series that was segmented, all its files in place.
        geometry: as read_series gave it.
        names: name per label value, without the background; text beyond 64 letters is cut.
        colours: red, green and blue (0-255) per label value, for all or some of them.
        algorithm: name of what made the labels; also the description of the new series.

    Raises:
        UsageError: highdicom is not installed.
        DataError: a file of the series cannot be read, or lacks an identifier that a segmentation must repeat.
    """
    try:
        import highdicom
        from highdicom.seg import Segmentation, SegmentationTypeValues
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise UsageError("DICOM SEG needs the package highdicom: pip install 'autoseg[dicom]'") from error
    assert labels.shape == geometry.shape == series.shape, (labels.shape, geometry.shape, series.shape)
    assert min(names, default=0) > 0, names
    identity = highdicom.AlgorithmIdentificationSequence(
        name=_text(algorithm), family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    segments = []
    for number, value in enumerate(sorted(names), start=1):
        segment = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=_text(names[value]),
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identity,
            display_color=highdicom.color.CIELabColor.from_rgb(*colours[value])
            if colours and value in colours
            else None,
        )
        segment.SegmentDescription = f"label value {value}"
        segments.append(segment)
    numbers = _segment_numbers(labels, sorted(names))
    images = _headers(series, spacing_mm=geometry.spacing_mm[0])
    # An object must have a frame: of labels without a voxel the first slice is written, one empty frame per segment.
    any_found = bool(numbers.any())
    n_slices = len(images) if any_found else 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, on values in the images that break a rule of the standard
            seg = Segmentation(
                source_images=images[:n_slices],
                further_source_images=images[n_slices:] or None,
                pixel_array=numbers[:n_slices],
                omit_empty_frames=any_found,
                segmentation_type=SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=highdicom.UID(),
                series_number=(series.number or 0) + 1000,
                series_description=_text(algorithm),
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="autoseg",
                manufacturer_model_name="autoseg",
                software_versions=__version__,
                device_serial_number="0",
                specific_character_set="ISO_IR 192",
                content_label="SEGMENTATION",
            )
    except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        # what is copied from the images is not looked at before: names, dates, and much else
        log.debug("%s", series.title, exc_info=True)
        found = f"has headers of which no DICOM SEG can be made ({error})"
        todo = f"{EXPORT}, or write the labels as NIfTI"
        raise DataError(Problem(case=series.title, found=found, next=todo)) from error
    with warnings.catch_warnings(), whole_file(path) as temporary:
        warnings.simplefilter("ignore")
        seg.save_as(temporary)


def _segment_numbers(labels: NDArray[np.integer], values: list[int]) -> NDArray[np.unsignedinteger]:
    """Label values -> 1 for the first of `values`, 2 for the second, ..., 0 for any other."""
    numbers = np.zeros(labels.shape, dtype=np.uint8 if len(values) < 256 else np.uint16)
    for target, plane in zip(numbers, labels, strict=True):  # by plane: searching takes 8 bytes per voxel
        found = np.searchsorted(values, plane)
        found[found == len(values)] = 0
        target[...] = np.where(np.take(values, found) == plane, found + 1, 0)
    return numbers


def _headers(series: DicomSeries, *, spacing_mm: float) -> list[Dataset]:
    """The headers of all files, with what highdicom looks for."""
    headers: list[Dataset] = []
    for path in series.files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = dcmread(path, stop_before_pixels=True, force=True)
                header.SOPClassUID = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
                missing = [key for key in NEEDED if not header.get(key)]
        except Exception as error:  # pydicom has no common class for what damaged bytes lead to
            log.debug("%s: %s", path, error)
            found = "can no longer be read"
            problem = Problem(case=series.title, file=str(path), found=found, next="search the folder again")
            raise DataError(problem) from error
        if missing:
            found = f"lacks {', '.join(missing)}, to which a DICOM SEG must refer"
            todo = f"{EXPORT} without removing identifiers, or write the labels as NIfTI"
            raise DataError(Problem(case=series.title, file=str(path), found=found, next=todo))
        for key in MAY_BE_EMPTY:
            if key not in header:
                setattr(header, key, None)
        # highdicom copies both into the segmentation; the file's own may be missing or another one
        header.SliceThickness = header.SpacingBetweenSlices = DSfloat(spacing_mm, auto_format=True)
        headers.append(header)
    return headers


def _text(text: str) -> str:
    """Text that an element of the kind LO may hold: a backslash would separate two values."""
    printable = "".join(letter if letter.isprintable() and letter != "\\" else "_" for letter in text)
    return printable[:MOST_LETTERS].strip() or "unnamed"
