"""What is to be predicted: cases of image files, or series of DICOM slices."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoseg.core.dataset import FILE_ENDINGS, Case, cases_in_folder, unsafe_id
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import unsafe_name
from autoseg.core.plan import Plan
from autoseg.io.images import LoadedCase, loaded_case, read_case, with_data_files, write_labels

if TYPE_CHECKING:
    from autoseg.io.dicom import DicomSeries

log = logging.getLogger(__name__)
LONGEST_NAME = 200  # bytes of a case named after a series; file systems take 255 bytes
DICOM_SEG = ".dcm"  # ending of a segmentation as DICOM SEG


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan: image files by channel, or a DICOM series."""

    id: str
    images: tuple[Path, ...] = ()
    series: DicomSeries | None = None

    @property
    def files(self) -> list[Path]:
        """All files that the voxels come from."""
        return with_data_files(self.images) if self.series is None else list(self.series.files)

    @property
    def resolved(self) -> Scan:
        """The same with absolute paths, for a process that stands elsewhere."""
        return replace(self, images=tuple(path.resolve() for path in self.images))

    def read(self) -> LoadedCase:
        """Voxels and geometry. Raises DataError naming every defect of the scan."""
        if self.series is None:
            return read_case(Case(id=self.id, images=self.images), labels=None)
        from autoseg.io.dicom import read_series

        try:
            voxels, geometry, warnings = read_series(self.series)
        except DataError as error:
            raise DataError(
                Problem(case=self.id, file=p.file or p.case, found=p.found, next=p.next) for p in error.problems
            ) from error
        doubts = [Problem(case=self.id, file=self.series.title, found=w, next="look at the result") for w in warnings]
        return loaded_case(self.id, [voxels], geometry, warnings=doubts)

    def write_labels(self, path: Path, labels: NDArray[np.integer], *, names: Mapping[int, str], model: str) -> None:
        """Write labels (Z, Y, X), canonical, on the grid of the scan; what the file is follows from its ending.

        Args:
            path: an image file, or .dcm for a DICOM SEG (of a DICOM series only).
            labels: file values.
            names: of the values.
            model: what made the labels; a DICOM SEG tells it.
        """
        if self.series is None:
            write_labels(path, labels, like=self.images[0], names=names)
            return
        from autoseg.io.dicom import series_geometry

        geometry, _ = series_geometry(self.series)
        if not path.name.endswith(DICOM_SEG):
            write_labels(path, labels, like=geometry, names=names)
            return
        from autoseg.core.palette import label_colour
        from autoseg.io.dicom_seg import write_dicom_seg

        write_dicom_seg(
            path,
            geometry.orientation.undo(labels),
            series=self.series,
            geometry=geometry,
            names=names,
            colours={value: label_colour(value) for value in names},
            algorithm=model,
        )


def find_scans(source: Path, plan: Plan) -> tuple[list[Scan], list[Problem]]:
    """The cases in a folder (CASE_0000.ext, ..., else DICOM series), or the one case of a file.

    Returns:
        (scans, problems): sorted by id; what is wrong with others.

    Raises:
        UsageError: nothing is there, or a file or DICOM was given for a model with several channels.
    """
    n_channels = len(plan.channel_names)
    if source.is_file():
        return [_single_file(source, plan)], []
    if not source.is_dir():
        raise UsageError(f"{source} does not exist; give a folder with images or one image with -i")
    images = sorted(path.name for path in source.iterdir() if path.name.endswith(FILE_ENDINGS))
    endings = [e for e in FILE_ENDINGS if any(name.endswith(e) for name in images)]
    numbered = any(re.search(r"_\d{4}(\.[a-z]+)+$", name) for name in images)
    if not numbered:  # images of something else, such as a mask beside the slices that it was drawn on
        found = _dicom_scans(source, plan, needed=not images)
        if found[0] or not images:
            if images:
                log.warning("%s: %s is left out beside DICOM series (no channel number in the name)", source, images[0])
            return found
    problems: list[Problem] = []
    scans: dict[str, Scan] = {}
    for ending in endings:
        for case in cases_in_folder(source, ending=ending, n_channels=n_channels, problems=problems).values():
            if case.id in scans:
                found = f"is there as {scans[case.id].images[0].name} too"
                problems.append(Problem(case=case.id, file=case.images[0].name, found=found, next="remove one of them"))
            scans[case.id] = Scan(id=case.id, images=case.images)
    broken = {problem.case for problem in problems}
    return [scans[name] for name in sorted(scans) if name not in broken], problems


def _single_file(source: Path, plan: Plan) -> Scan:
    ending = next((e for e in FILE_ENDINGS if source.name.endswith(e)), None)
    if ending is None:
        todo = "convert it first, or give the folder of a DICOM series"
        raise UsageError(f"{source} is none of {', '.join(FILE_ENDINGS)}; {todo}")
    _one_channel(plan, "give a folder")
    case = source.name[: -len(ending)].removesuffix("_0000")
    if unsafe := unsafe_id(case):
        raise UsageError(f"{source.name}: {unsafe}; rename the file")
    return Scan(id=case, images=(source,))


def _dicom_scans(source: Path, plan: Plan, *, needed: bool) -> tuple[list[Scan], list[Problem]]:
    """The DICOM series below a folder; where none is `needed`, nothing without them."""
    from autoseg.io.dicom import find_series

    series, problems = find_series(source.resolve())
    if not series and not needed:
        return [], []
    if not series and not problems:
        raise UsageError(f"{source} holds no image ({', '.join(FILE_ENDINGS)}) and no DICOM series; check the path")
    _one_channel(plan, "convert the series to CASE_0000, CASE_0001, ... on one grid first")
    if plan.channel_names[0].casefold() == "ct" and any(one.modality == "CT" for one in series):
        for one in series:
            if one.modality != "CT":
                kind = one.modality or "of unknown kind"
                log.warning(
                    "%s: %s is %s, and the model is for CT; it is left out", one.files[0].parent, one.title, kind
                )
        series = [one for one in series if one.modality == "CT"]
    wanted = [_name(one, source) for one in series]
    alone = Counter(wanted)
    scans: dict[str, Scan] = {}
    for name, one in zip(wanted, series, strict=True):
        words = [name] if alone[name] == 1 else [name, str(one.number or ""), one.description]
        case = _as_file_name("_".join(word for word in words if word))
        while case in scans:  # the same number and description twice
            case += "_2"
        scans[case] = Scan(id=case, series=one)
    return [scans[case] for case in sorted(scans)], problems


def _name(series: DicomSeries, source: Path) -> str:
    """The folder of a series, seen from the one that was given."""
    folder = series.files[0].resolve().parent
    below = folder.relative_to(source.resolve()) if folder.is_relative_to(source.resolve()) else Path()
    return "_".join(below.parts) or source.resolve().name or "series"


def _as_file_name(text: str) -> str:
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^\w.-]+", "-", text)).encode()[:LONGEST_NAME].decode(errors="ignore")
    name = name.strip(".-_") or "series"
    assert not unsafe_name(name), name
    return name


def _one_channel(plan: Plan, todo: str) -> None:
    n_channels = len(plan.channel_names)
    if n_channels > 1:
        raise UsageError(f"this model needs {n_channels} channels per case ({', '.join(plan.channel_names)}); {todo}")
