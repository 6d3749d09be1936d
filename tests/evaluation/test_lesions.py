"""Lesions found one by one, against brute force over all pairings."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.ndimage import label

from autoseg.evaluation.lesions import match_lesions


def brute_force(truth: np.ndarray, predicted: np.ndarray) -> tuple[int, int, int, float]:
    """(true, predicted, found, sum of IoUs above 0.5) from the definition."""
    everywhere = np.ones((3, 3, 3))
    parts = [
        [array == n for n in range(1, count + 1)] for array, count in (label(m, everywhere) for m in (truth, predicted))
    ]
    ious = np.array([[(a & b).sum() / (a | b).sum() for b in parts[1]] for a in parts[0]]).reshape(*map(len, parts))
    few, many = sorted(ious.shape)
    table = ious if ious.shape[0] == few else ious.T
    found = max(
        (sum(table[i, j] > 0.1 for i, j in enumerate(order)) for order in permutations(range(many), few)), default=0
    )
    return len(parts[0]), len(parts[1]), found, float(ious[ious > 0.5].sum())


@pytest.mark.parametrize("seed", range(40))
def test_matches_equal_trying_every_pairing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (3, 9, 12)
    truth, predicted = np.zeros(shape, bool), np.zeros(shape, bool)
    for mask in (truth, predicted):
        for _ in range(rng.integers(0, 6)):
            corner, size = [rng.integers(0, n) for n in shape], rng.integers(1, 5, 3)
            mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    found = match_lesions(truth, predicted)
    n_truth, n_predicted, n_found, quality = brute_force(truth, predicted)
    assert (found.n_truth, found.n_predicted, found.n_found) == (n_truth, n_predicted, n_found)
    if n_truth + n_predicted:
        assert found.f1 == pytest.approx(2 * n_found / (n_truth + n_predicted))
        assert found.panoptic_quality == pytest.approx(2 * quality / (n_truth + n_predicted))


def test_as_many_as_there_can_be_are_found_and_quality_takes_the_best_pair() -> None:
    """One prediction fits two lesions; the second prediction fits the first lesion only."""
    truth, predicted = np.zeros((1, 1, 30), bool), np.zeros((1, 1, 30), bool)
    truth[..., 0:14] = truth[..., 15:20] = True
    predicted[..., 0:2] = predicted[..., 4:18] = True  # IoU 2/14 with the first; 10/18 and 3/16 with the two
    found = match_lesions(truth, predicted)
    assert found.n_found == 2
    assert found.same_ious == (pytest.approx(10 / 18),)


def test_neither_and_one_of_both() -> None:
    nothing, something = np.zeros((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    something[0, 0, 0] = something[1, 1, 1] = True  # they touch at a corner: one lesion
    assert (match_lesions(nothing, nothing).f1, match_lesions(nothing, nothing).panoptic_quality) == (None, None)
    for pair in ((nothing, something), (something, nothing)):
        found = match_lesions(*pair)
        assert (found.n_truth + found.n_predicted, found.f1, found.panoptic_quality) == (1, 0, 0)
    assert match_lesions(something, something).panoptic_quality == 1


def test_noise_of_thousands_of_specks_is_counted() -> None:
    truth = np.zeros((40, 80, 80), bool)
    truth[::2, ::2, ::2] = True
    predicted = truth.copy()
    predicted[:20] = False
    found = match_lesions(truth, predicted)
    assert (found.n_truth, found.n_predicted, found.n_found) == (32000, 16000, 16000)
    assert found.panoptic_quality == pytest.approx(2 / 3)
