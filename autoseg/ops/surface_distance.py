"""Distances between the surfaces of two masks, in millimetres, each piece of surface weighted by its area.

Convention of DeepMind's surface-distance (Nikolov et al. 2018): between every eight neighbouring voxels lies a cell;
where they are not all the same, the surface runs through it, with the area that marching cubes gives it there. A
distance is that between the centres of two such cells. Everything outside of the array is background.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.measure import marching_cubes

from autoseg.ops.crop import bounding_box, crop

Spacing = tuple[float, float, float]
CORNERS = [*product((0, 1), repeat=3)]  # offsets (z, y, x) of a cell's voxels; the n-th sets bit n of the cell's code
FULL = 255


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """Of each piece of one surface the distance to the other, float64 and sorted, and its area in mm^2.

    A mask without voxels has no surface: its arrays are empty, and the distances to it are infinite.
    """

    truth_mm: NDArray[np.float64]
    truth_mm2: NDArray[np.float64]
    predicted_mm: NDArray[np.float64]
    predicted_mm2: NDArray[np.float64]

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface."""
        return len(self.truth_mm) > 0 and len(self.predicted_mm) > 0

    def hausdorff_mm(self, percent: float = 100.0) -> float | None:
        """The distance that `percent` of a surface's area does not exceed, the larger of both; None if undefined."""
        if not self.defined:
            return None
        return max(
            _percentile(self.truth_mm, self.truth_mm2, percent),
            _percentile(self.predicted_mm, self.predicted_mm2, percent),
        )

    @property
    def mean_mm(self) -> float | None:
        """Mean distance over the area of both surfaces; None if undefined."""
        if not self.defined:
            return None
        weighted = self.truth_mm @ self.truth_mm2 + self.predicted_mm @ self.predicted_mm2
        return float(weighted / (self.truth_mm2.sum() + self.predicted_mm2.sum()))

    def normalised_surface_dice(self, tolerance_mm: float) -> float | None:
        """Share of the area of both surfaces within `tolerance_mm` of the other; 0 with one mask empty, None with both.

        Source: Nikolov et al. 2018.
        """
        total = self.truth_mm2.sum() + self.predicted_mm2.sum()
        if total == 0:
            return None
        # NIfTI stores spacings as float32: five voxels of 0.2 mm are 1.00000001 mm, which is within 1 mm
        tolerance_mm *= 1 + 1e-6
        near = self.truth_mm2[self.truth_mm <= tolerance_mm].sum()
        near += self.predicted_mm2[self.predicted_mm <= tolerance_mm].sum()
        return float(near / total)


def surface_distances(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], *, spacing_mm: Spacing
) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Args:
        truth: (Z, Y, X) bool.
        predicted: (Z, Y, X) bool, same shape.
        spacing_mm: voxel size (z, y, x).
    """
    assert truth.shape == predicted.shape, (truth.shape, predicted.shape)
    either = truth | predicted
    if not either.any():
        nothing = np.zeros(0)
        return SurfaceDistances(truth_mm=nothing, truth_mm2=nothing, predicted_mm=nothing, predicted_mm2=nothing)
    box = bounding_box(either)
    codes = [cell_codes(crop(mask, box)) for mask in (truth, predicted)]
    edges = [(code > 0) & (code < FULL) for code in codes]
    areas = cell_areas_mm2(spacing_mm)
    found = []
    for code, edge, other in zip(codes, edges, reversed(edges), strict=True):
        distances_mm, areas_mm2 = _distances(edge, to=other, spacing_mm=spacing_mm), areas[code[edge]]
        order = np.argsort(distances_mm)
        found += [distances_mm[order], areas_mm2[order]]
    return SurfaceDistances(truth_mm=found[0], truth_mm2=found[1], predicted_mm=found[2], predicted_mm2=found[3])


def cell_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Which of the eight voxels around each cell belong to a mask (Z, Y, X): uint8 (Z + 1, Y + 1, X + 1)."""
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([size + 1 for size in mask.shape], dtype=np.uint8)
    for bit, offsets in enumerate(CORNERS):
        place = tuple(slice(o, o + size) for o, size in zip(offsets, codes.shape, strict=True))
        codes |= padded[place] << np.uint8(bit)
    return codes


def cell_areas_mm2(spacing_mm: Spacing) -> NDArray[np.float64]:
    """Area of the surface in a cell of each of the 256 codes, float64 (256,)."""
    z, y, x = spacing_mm
    scaled = _triangles() * np.array([y * x, z * x, z * y])  # a normal's component is an area in the other two axes
    areas: NDArray[np.float64] = np.sqrt(np.square(scaled).sum(axis=2)).sum(axis=1)
    return areas


@lru_cache(maxsize=1)
def _triangles() -> NDArray[np.float64]:
    """Normals of the triangles in a cell of each code, as long as these are large: (256, 5, 3) for voxels of 1 mm.

    In ambiguous cells the fewer voxels are taken apart, so that a mask and what it leaves have the same surface.
    """
    normals = np.zeros((FULL + 1, 5, 3))
    for code in range(1, FULL):
        fewer = code if code.bit_count() <= 4 else FULL - code
        cube = np.array([fewer >> bit & 1 for bit in range(8)], dtype=np.float32).reshape(2, 2, 2)
        points, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen", allow_degenerate=False)  # type: ignore[no-untyped-call]
        a, b, c = (points[faces[:, corner]].astype(np.float64) for corner in range(3))
        normals[code, : len(faces)] = np.cross(b - a, c - a) / 2
    return normals


def _percentile(distances_mm: NDArray[np.float64], areas_mm2: NDArray[np.float64], percent: float) -> float:
    """The smallest distance up to which at least `percent` of the area lies."""
    share = np.cumsum(areas_mm2) / areas_mm2.sum()
    return float(distances_mm[min(int(np.searchsorted(share, percent / 100)), len(distances_mm) - 1)])


def _distances(edge: NDArray[np.bool_], *, to: NDArray[np.bool_], spacing_mm: Spacing) -> NDArray[np.float64]:
    points = np.array(np.nonzero(edge))
    if not to.any():
        return np.full(points.shape[1], np.inf)
    # Asked for the nearest voxels, the transform takes half the time and a quarter of the memory.
    nearest = distance_transform_edt(~to, sampling=spacing_mm, return_distances=False, return_indices=True)
    here = (slice(None), *points)
    steps_mm = (nearest[here] - points) * np.array(spacing_mm)[:, None]
    distances_mm: NDArray[np.float64] = np.sqrt(np.square(steps_mm).sum(axis=0))
    return distances_mm
