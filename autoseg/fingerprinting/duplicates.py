"""Images that are nearly the same: one in training and its twin in validation would make scores too good."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoseg.core.errors import Problem

GRID = 16
# Means over boxes hardly feel noise (a fifth of the contrast: 0.998), rounding or another scale (1.000); a shift by a
# voxel gives 0.92 to 0.998. Two scans of one person had 0.98, the most alike of 200 people 0.86.
SAME = 0.995
MOST_LISTED = 20


def signature(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of the first channel of (C, Z, Y, X) over a grid of boxes, float32 (GRID**3,), mean 0 and length 1.

    All zeros for a constant image, which resembles nothing.
    """
    boxes = image[0].astype(np.float64)
    for axis, n in enumerate(image.shape[1:]):
        edges = np.arange(GRID + 1) * n // GRID
        starts, widths = edges[:-1], np.maximum(np.diff(edges), 1)
        sums = np.add.reduceat(boxes, np.minimum(starts, n - 1), axis=axis)
        boxes = sums / widths.reshape([-1 if i == axis else 1 for i in range(3)])
    values = boxes.ravel() - boxes.mean()
    length = float(np.linalg.norm(values))
    return (values / length if length > 0 else values).astype(np.float32)


def leaks(signatures: Mapping[str, NDArray[np.float32]], groups: Mapping[str, str]) -> list[Problem]:
    """A warning for every pair of cases of different groups whose images are nearly the same.

    Args:
        signatures: by case id.
        groups: patient or site by case id; a case without one is a group of its own.
    """
    cases = sorted(signatures)
    if not cases:
        return []
    table = np.stack([signatures[case] for case in cases])
    found = []
    for i, case in enumerate(cases):
        alike = table[i + 1 :] @ table[i]
        for j in np.flatnonzero(alike > SAME):
            twin = cases[i + 1 + int(j)]
            if groups.get(case, case) != groups.get(twin, twin):
                text = f"is nearly the same image as {twin} (correlation {alike[j]:.4f}), but counts as another patient"
                todo = "remove one of them, or give both the same group in dataset.json"
                found.append(Problem(case=case, found=text, next=todo))
    if len(found) > MOST_LISTED:
        more = f"{len(found) - MOST_LISTED} more pairs of images are nearly the same, but count as other patients"
        found = [*found[:MOST_LISTED], Problem(case="", found=more, next="mend those above, then measure again")]
    return found
