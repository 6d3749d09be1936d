"""Which lesions of the truth a prediction found: connected parts, matched one to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from autoseg.ops.components import component_sizes

FOUND_ABOVE = 0.1  # IoU: a lesion is found when its place is right, even where its border is not
SAME_ABOVE = 0.5  # IoU: the same object, of which there cannot be two


@dataclass(frozen=True, kw_only=True)
class LesionMatches:
    """Numbers of lesions: true, predicted, and found; and the IoUs above 0.5 between true and predicted ones."""

    n_truth: int
    n_predicted: int
    n_found: int
    same_ious: tuple[float, ...]

    @property
    def f1(self) -> float | None:
        """2 found / (true + predicted); None where there is neither."""
        total = self.n_truth + self.n_predicted
        return 2 * self.n_found / total if total else None

    @property
    def panoptic_quality(self) -> float | None:
        """Sum of the IoUs above 0.5 over the mean number of true and predicted lesions; None where there is neither.

        Source: Kirillov et al. 2019, with true positives + half of the false ones written as that mean.
        """
        total = self.n_truth + self.n_predicted
        return 2 * sum(self.same_ious) / total if total else None


def match_lesions(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> LesionMatches:
    """Match the connected parts (26 neighbours) of two masks (Z, Y, X).

    Found are as many lesions as there can be one-to-one pairs with an IoU above 0.1.
    """
    (true_parts, true_sizes), (other_parts, other_sizes) = component_sizes(truth), component_sizes(predicted)
    n_truth, n_predicted = len(true_sizes) - 1, len(other_sizes) - 1
    both = truth & predicted
    pairs = true_parts[both].astype(np.int64) * (n_predicted + 1) + other_parts[both]
    codes, voxels = np.unique(pairs, return_counts=True)
    rows, columns = codes // (n_predicted + 1), codes % (n_predicted + 1)
    ious = voxels / (true_sizes[rows] + other_sizes[columns] - voxels)
    rows, columns, ious = (array[ious > FOUND_ABOVE] for array in (rows, columns, ious))
    # only parts that meet another one: hundreds of specks elsewhere cost nothing
    true_ids, row = np.unique(rows, return_inverse=True)
    other_ids, column = np.unique(columns, return_inverse=True)
    graph = coo_array((np.ones(len(ious)), (row, column)), shape=(len(true_ids), len(other_ids))).tocsr()
    n_found = int((maximum_bipartite_matching(graph) >= 0).sum()) if len(ious) else 0
    same = tuple(ious[ious > SAME_ABOVE].tolist())
    return LesionMatches(n_truth=n_truth, n_predicted=n_predicted, n_found=n_found, same_ious=same)
