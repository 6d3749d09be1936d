"""A folder of DICOM files to its series, and a series to one volume: pydicom reads headers, SimpleITK pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.geometry import Geometry
from autoseg.io.dicom_grid import along_normal, grid
from autoseg.io.dicom_header import EXPORT, Header, Slice, holds_pixels, read_header

log = logging.getLogger(__name__)

# Stacks whose row or column differ by more (about 3 degrees) were scanned in different directions, such as the planes
# of a localizer; less is one stack with turned slices, which is refused.
OTHER_DIRECTION = 0.05
# Three planes in two sizes; slices that each point elsewhere (a star around an axis) are no stacks at all.
MOST_STACKS = 6


@dataclass(frozen=True, kw_only=True)
class DicomSeries:
    """One stack of slices, sorted along its normal (row x column).

    Almost always this is a whole series. One that holds stacks of different orientation or size, such as a
    localizer, becomes several: `part` of `parts`, the largest first. uid, study_uid and the texts are empty, and
    number is None, where the header lacks them. defects are why the series cannot be read, known from headers.
    """

    uid: str
    study_uid: str
    number: int | None
    description: str
    modality: str
    patient_id: str
    study_date: str
    slices: tuple[Slice, ...]
    part: int = 1
    parts: int = 1
    defects: tuple[Problem, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the slices: the order of the voxels' first axis."""
        return tuple(one.path for one in self.slices)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of the volume."""
        return (len(self.slices), *self.slices[0].shape)

    @property
    def title(self) -> str:
        """How messages call the series: its number and description, as a viewer shows them."""
        name = _title(self.number, self.description, self.uid)
        return name if self.parts == 1 else f"{name}, part {self.part} of {self.parts}"


def find_series(folder: Path) -> tuple[list[DicomSeries], list[Problem]]:
    """All series of slices in a folder and the folders in it, by their headers; names and endings mean nothing.

    Files that are no DICOM, and DICOM objects that are no images (segmentations, reports, plans, presentation
    states, DICOMDIR), are passed over, and so are names that begin with a dot.

    Returns:
        (series, problems): series sorted by patient, study and number; and what may be missed among them: damaged
        files, and images that cannot be part of a volume, one Problem for all such files of a series.

    Raises:
        DataError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(Problem(case="", file=str(folder), found="is no folder", next="check the path"))
    headers: list[Header] = []
    problems: list[Problem] = []
    for path in _files(folder, problems):
        try:
            header = read_header(path)
        except DataError as error:
            problems += error.problems
            continue
        if header is not None:
            headers.append(header)
    series: list[DicomSeries] = []
    headers.sort(key=_series_key)
    for _, group in groupby(headers, key=_series_key):
        members = list(group)
        defects = _defects(members)
        slices = [header.slice for header in members if header.slice is not None]
        stacks = _stacks(slices)
        if len(stacks) > MOST_STACKS:
            found = f"its {len(slices)} images point in {len(stacks)} directions"
            defects.append(Problem(case=_name(members), found=found, next="use a series of parallel slices"))
        series += _series(members, stacks, defects) if len(stacks) <= MOST_STACKS else []
        problems += defects if not 0 < len(stacks) <= MOST_STACKS else []
    return sorted(
        series, key=lambda s: (s.patient_id, s.study_date, s.study_uid, s.number or 0, s.uid, s.part)
    ), problems


def series_geometry(series: DicomSeries) -> tuple[Geometry, list[str]]:
    """Geometry of the volume and warnings, from the headers that find_series read; no file is opened.

    Raises:
        DataError: the slices form no regular volume: missing, doubled, unevenly spaced, turned, tilted, or some
            file of the series is damaged.
    """
    if series.defects:
        raise DataError(series.defects)
    geometry, warnings = grid(series.slices, title=series.title)
    if series.parts > 1:
        warnings.append(f"the series holds {series.parts} stacks of different orientation or size; this is one of them")
    return geometry, warnings


def read_series(series: DicomSeries) -> tuple[NDArray[Any], Geometry, list[str]]:
    """Read the voxels of a series, one slice at a time into their place.

    Returns:
        (voxels, geometry, warnings): voxels (Z, Y, X) in the order of `series.files`, rescaled slice by slice with
        its own slope and intercept; int16 or, where that is too narrow, int32; float32 where values can be fractions.

    Raises:
        DataError: as series_geometry; or a file is gone, truncated, damaged or compressed in an unknown way (all
            such files are named); or the volume does not fit into memory.
    """
    geometry, warnings = series_geometry(series)
    problems: list[Problem] = []
    try:
        voxels = np.empty(geometry.shape, dtype=_first_type(series.slices))
        for index, one in enumerate(series.slices):
            try:
                pixels = _pixels(one)
            except DataError as error:
                problems += (replace(problem, case=series.title) for problem in error.problems)
                continue
            voxels = _with_room(voxels, pixels)
            voxels[index] = pixels
    except MemoryError as error:
        found = f"does not fit into memory ({'x'.join(map(str, geometry.shape))} voxels)"
        raise DataError(Problem(case=series.title, found=found, next="use a machine with more memory")) from error
    if problems:
        raise DataError(problems)
    return voxels, geometry, warnings


def _files(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    """All files below a folder, sorted; linked folders are followed once."""

    def unreadable(error: OSError) -> None:
        found = f"cannot be read ({error.strerror})"
        problems.append(Problem(case="", file=str(error.filename), found=found, next="check its permissions"))

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        for name in [] if real in seen else sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path
        seen.add(real)


def _series_key(header: Header) -> tuple[str, str, str]:
    """What the files of a series have in common; without a UID, which careless anonymising removes, their folder."""
    return header.study_uid, header.series_uid, "" if header.series_uid else str(header.path.parent)


def _defects(members: list[Header]) -> list[Problem]:
    """One Problem for all files of a series that have the same defect."""
    problems = []
    bad = sorted((header for header in members if header.slice is None), key=lambda header: header.defect)
    for (found, todo), group in groupby(bad, key=lambda header: header.defect):
        files = list(group)
        more = f" (and {len(files) - 1} more files of this series)" if len(files) > 1 else ""
        problems.append(Problem(case=_name(members), file=str(files[0].path), found=found + more, next=todo))
    return problems


def _stacks(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices of equal size and about equal orientation together; the largest stack first."""
    stacks: list[list[Slice]] = []
    for one in slices:
        for stack in stacks:
            turn = np.abs(np.subtract(one.orientation, stack[0].orientation)).max()
            if one.shape == stack[0].shape and turn <= OTHER_DIRECTION:
                stack.append(one)
                break
        else:
            stacks.append([one])
    return sorted(stacks, key=len, reverse=True)


def _series(members: list[Header], stacks: list[list[Slice]], defects: list[Problem]) -> Iterator[DicomSeries]:
    first = members[0]
    for part, stack in enumerate(stacks, start=1):
        yield DicomSeries(
            uid=first.series_uid,
            study_uid=first.study_uid,
            number=first.number,
            description=first.description,
            modality=first.modality,
            patient_id=first.patient_id,
            study_date=first.study_date,
            slices=tuple(along_normal(stack)),
            part=part,
            parts=len(stacks),
            defects=tuple(defects),
        )


def _name(members: list[Header]) -> str:
    return _title(members[0].number, members[0].description, members[0].series_uid)


def _title(number: int | None, description: str, uid: str) -> str:
    name = description or uid
    return " ".join(["series", *([] if number is None else [str(number)]), *([f"({name})"] if name else [])])


def _first_type(slices: Iterable[Slice]) -> type[np.int16 | np.float32]:
    """float32 where rescaling gives fractions; else int16, which nearly all whole values fit into."""
    whole = all(one.slope.is_integer() and one.intercept.is_integer() for one in slices)
    return np.int16 if whole else np.float32


def _with_room(voxels: NDArray[Any], pixels: NDArray[Any]) -> NDArray[Any]:
    """The volume itself, or a copy of a wider type where its own cannot hold the pixels."""
    for kind in (voxels.dtype, np.dtype(np.int32)):
        if kind.kind == "f" or (pixels.dtype.kind in "iu" and _fits(pixels, kind)):
            return voxels.astype(kind, copy=False)
    return voxels.astype(np.float32)


def _fits(pixels: NDArray[Any], kind: np.dtype[Any]) -> bool:
    return bool(np.iinfo(kind).min <= pixels.min() and pixels.max() <= np.iinfo(kind).max)


def _pixels(one: Slice) -> NDArray[Any]:
    """Rescaled pixels (Y, X) of one file, in the type that GDCM chose for it."""

    def refuse(found: str, todo: str = EXPORT) -> DataError:
        return DataError(Problem(case="", file=str(one.path), found=found, next=todo))

    if not one.path.is_file():
        raise refuse("is no longer there", "search the folder again")
    try:
        str(one.path).encode()
    except UnicodeEncodeError as error:  # SimpleITK ends the whole program on such a name
        raise refuse("has a name with bytes that are no text", "rename the file or its folder") from error
    # GDCM notices it too, but takes seconds for each such file
    if not holds_pixels(one.path):
        raise refuse("holds no pixels: it is truncated or damaged")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(one.path))
    try:
        pixels: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        log.debug("%s: %s", one.path, error)
        raise refuse("cannot be decoded: it is truncated, damaged or compressed in an unknown way") from error
    if pixels.shape != (1, *one.shape):
        raise refuse("has pixels that do not fit the size in its header")
    plane: NDArray[Any] = pixels[0]
    return plane
