"""Slices of a DICOM series to the grid they lie on: by their positions, never by what headers call thickness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import DataError, Problem
from autoseg.core.geometry import ROUNDING, Geometry
from autoseg.io.dicom_header import CONVERT, EXPORT, Slice

# Images nearer to each other than this part of a pixel lie at the same place; no scanner makes such slices.
SAME_PLACE_PIXELS = 0.01
# A step of one and a half distances is nearer to a missing slice than to an uneven one.
HOLE_DISTANCES = 1.5
# Positions along the stack, in parts of the slice distance: up to the first limit they differ by the rounding of
# coordinates; coordinates with one decimal (0.05 mm off, slices of 0.5 mm) stay within the second. Beyond that the
# volume would be stretched by amounts that a person sees at an edge.
JITTER_QUIET, JITTER_MOST = 0.01, 0.1
# Sideways, in pixels: cosines of four digits move the far end of a long stack by about a tenth of a pixel; from half
# a pixel on the nearest voxel is another one, which is also where two grids count as different (Geometry.differences).
SHIFT_QUIET, SHIFT_MOST = 0.1, 0.5
# What a tilted stack leaves over, of its largest shift, when the tilt is taken out.
TILT_RESIDUE = 0.1

MOST_LISTED = 3


class _Refuse(Protocol):
    """Notes a defect: what was found, what to do, the file it is about."""

    def __call__(self, found: str, todo: str, where: Slice | None = None) -> None: ...


def grid(slices: Sequence[Slice], *, title: str) -> tuple[Geometry, list[str]]:
    """Geometry of a stack of slices that is sorted along its normal, and warnings.

    The origin is the position of the first slice, the third column of the direction the normal (row x column).

    Raises:
        DataError: slices missing or doubled, unevenly spaced, turned, of different pixel sizes, or stacked at an
            angle. Every defect is a Problem whose case is `title`.
    """
    problems: list[Problem] = []

    def refuse(found: str, todo: str, where: Slice | None = None) -> None:
        problems.append(Problem(case=title, file=str(where.path) if where else "", found=found, next=todo))

    orientations, pixels = np.array([s.orientation for s in slices]), np.array([s.pixel_mm for s in slices])
    orientation, pixel = np.median(orientations, axis=0), np.median(pixels, axis=0)
    turns = np.abs(orientations - orientation).max(axis=1)
    if turns.max() > ROUNDING:
        worst = int(turns.argmax())
        degrees = np.degrees(turns[worst])
        found = (
            f"{_of(turns > ROUNDING)} slices are turned against the others, the worst by about {degrees:.1f} degrees"
        )
        refuse(found, f"{EXPORT}; turned slices form no volume", slices[worst])
    sizes = np.abs(pixels / pixel - 1).max(axis=1)
    if sizes.max() > ROUNDING:
        worst = int(sizes.argmax())
        found = (
            f"{_of(sizes > ROUNDING)} slices have pixels of another size ({_mm(pixels[worst])} mm, not {_mm(pixel)})"
        )
        refuse(found, f"{EXPORT}, or sort these slices out", slices[worst])
    if problems:  # distances between such slices mean nothing
        raise DataError(problems)
    row, column, normal = _axes(orientation)
    positions = np.array([s.position_mm for s in slices])
    heights = positions @ normal
    warnings: list[str] = []
    spacing = _single_spacing(slices[0], refuse, warnings) if len(slices) == 1 else 0.0
    if len(slices) > 1 and _steps_are_sound(slices, heights, float(pixel.min()), refuse):
        spacing = float(heights[-1] - heights[0]) / (len(slices) - 1)
        _check_even(heights, spacing, refuse, warnings)
        _check_straight(positions, heights, np.stack([row, column]), pixel[::-1], refuse, warnings)
    if problems:
        raise DataError(problems)
    return Geometry(
        shape=(len(slices), *slices[0].shape),
        spacing_mm=(spacing, float(pixel[0]), float(pixel[1])),
        origin_mm=tuple(value + 0.0 for value in slices[0].position_mm),  # type: ignore[arg-type]
        direction=tuple(float(value) + 0.0 for value in np.stack([row, column, normal], axis=1).ravel()),
    ), warnings


def along_normal(slices: Sequence[Slice]) -> list[Slice]:
    """The slices of one stack, sorted along the normal (row x column); equal places by instance number and path."""
    normal = _axes(np.array(slices[0].orientation))[2]
    return sorted(slices, key=lambda s: (float(np.dot(s.position_mm, normal)), s.number or 0, s.path))


def _axes(orientation: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Cosines of row, column and normal, made exactly perpendicular."""
    row = orientation[:3] / np.linalg.norm(orientation[:3])
    normal = np.cross(row, orientation[3:])
    normal /= np.linalg.norm(normal)
    return row, np.cross(normal, row), normal


def _single_spacing(only: Slice, refuse: _Refuse, warnings: list[str]) -> float:
    if only.depth_mm is None:
        refuse("is a single slice whose thickness is unknown", "use a series of several slices", only)
        return 0.0
    warnings.append(f"a single slice; its thickness is taken from the header ({only.depth_mm:g} mm)")
    return only.depth_mm


def _steps_are_sound(slices: Sequence[Slice], heights: NDArray[np.float64], pixel_mm: float, refuse: _Refuse) -> bool:
    """Whether there is one image at each place and no place without one."""
    steps = np.diff(heights)
    doubled = np.flatnonzero(steps < SAME_PLACE_PIXELS * pixel_mm).tolist()
    if doubled:
        first, second = slices[doubled[0]], slices[doubled[0] + 1]
        files = f"{first.path.name} and {second.path.name}"
        if all(slices[i].uid and slices[i].uid == slices[i + 1].uid for i in doubled):
            found = f"{_count(len(doubled), 'image is', 'images are')} there twice, {files} for example"
            refuse(found, "remove the copies", second)
        else:
            found = f"{len(slices)} images lie at only {len(slices) - len(doubled)} places, {files} at the same one"
            todo = "if they are several time points, echoes or reconstructions, export each as a series of its own"
            refuse(found, f"{todo}; else remove the doubled ones", second)
        return False
    # the lower of two middle values: a hole must not count as the usual step of a short stack
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    holes = np.flatnonzero(steps > HOLE_DISTANCES * usual).tolist()
    if holes:
        missing = int(sum(round(steps[i] / usual) - 1 for i in holes))
        places = [f"between {_place(slices[i], heights[i])} and {_place(slices[i + 1], heights[i + 1])}" for i in holes]
        more = f" and at {len(places) - MOST_LISTED} more places" if len(places) > MOST_LISTED else ""
        found = f"{_count(missing, 'slice is', 'slices are')} missing {', '.join(places[:MOST_LISTED])}{more}"
        refuse(
            f"{found}, where slices are usually {usual:.4g} mm apart",
            "copy or export the series again with all its slices; one that was scanned with gaps cannot be used",
        )
    return not holes


def _check_even(heights: NDArray[np.float64], spacing: float, refuse: _Refuse, warnings: list[str]) -> None:
    steps = np.diff(heights)
    off = float(np.abs(heights - heights[0] - spacing * np.arange(len(heights))).max()) / spacing
    found = f"slices are {steps.min():.4g} to {steps.max():.4g} mm apart, up to {off:.0%} of that off an even stack"
    if off > JITTER_MOST:
        refuse(found, "resample the series to even distances, or use one that was scanned so")
    elif off > JITTER_QUIET:
        warnings.append(f"{found}; a distance of {spacing:.6g} mm is taken for all")


def _check_straight(
    positions: NDArray[np.float64],
    heights: NDArray[np.float64],
    axes: NDArray[np.float64],
    pixel_xy_mm: NDArray[np.float64],
    refuse: _Refuse,
    warnings: list[str],
) -> None:
    """Look for slices that do not lie straight above each other; `axes` are the cosines of row and column."""
    shifts = (positions - positions[0]) @ axes.T
    pixels = float(np.abs(shifts / pixel_xy_mm).max())
    climb = heights - heights[0]
    tilt = climb @ shifts / (climb @ climb)
    residue = np.linalg.norm(shifts - np.outer(climb, tilt), axis=1).max()
    found = f"slices are shifted sideways by up to {np.linalg.norm(shifts, axis=1).max():.3g} mm ({pixels:.2g} pixels)"
    if pixels <= SHIFT_QUIET:
        return
    if pixels <= SHIFT_MOST:
        warnings.append(f"{found}; they are taken to lie straight above each other")
    elif residue <= TILT_RESIDUE * np.linalg.norm(shifts, axis=1).max():
        degrees = np.degrees(np.arctan(np.linalg.norm(tilt)))
        found = f"the slices are stacked at an angle of {degrees:.2g} degrees (tilted gantry), not straight"
        refuse(found, "resample the series to a straight grid (dcm2niix does so) and use that file")
    else:
        refuse(f"the {found} against each other", CONVERT)


def _place(one: Slice, height: float) -> str:
    return f"{height:.4g} mm ({one.path.name if one.number is None else f'image {one.number}'})"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _of(odd: NDArray[np.bool_]) -> str:
    return f"{int(odd.sum())} of {len(odd)}"


def _mm(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
