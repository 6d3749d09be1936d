"""Random mistakes in an earlier stage's segmentation, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.training.augmentation import perturb, stage
from autoseg.training.augmentation.draws import generator_for
from autoseg.training.augmentation.stage import _grow_or_shrink, grow


def ball(radius: int, axes: int) -> np.ndarray:
    return (np.indices([2 * radius + 1] * axes) - radius).__pow__(2).sum(0) <= radius**2


def random_masks(shape: tuple[int, ...], n: int, share: float = 0.03) -> np.ndarray:
    return np.random.default_rng(0).random((n, *shape)) < share


@pytest.mark.parametrize("shape", [(9, 14, 11), (1, 7, 20), (6, 1, 1), (13, 12)])
def test_growing_and_shrinking_equal_scipy_with_a_ball(shape: tuple[int, ...]) -> None:
    radii = [1, 2, 3, 5, 8]
    masks = random_masks(shape, len(radii))
    masks[2] = ~masks[2]
    outward = [True, False, True, False, True]
    found = _grow_or_shrink(torch.from_numpy(masks), radii, outward).numpy()
    for mask, radius, out, result in zip(masks, radii, outward, found, strict=True):
        element = ball(radius, len(shape))
        expected = (
            ndimage.binary_dilation(mask, element) if out else ndimage.binary_erosion(mask, element, border_value=True)
        )
        np.testing.assert_array_equal(result, expected)


def test_growing_by_the_largest_radius_reaches_its_distance_and_no_further() -> None:
    mask = torch.zeros(1, 25, 25, dtype=torch.bool)
    mask[0, 12, 12] = True
    distance = ((torch.arange(25) - 12) ** 2)[:, None] + (torch.arange(25) - 12) ** 2
    torch.testing.assert_close(grow(mask, [8])[0], distance <= 64)


def two_labels(n: int = 64) -> torch.Tensor:
    """Two boxes that touch, and a small part of the first label apart from its box."""
    labels = torch.zeros(n, 2, 16, 18, 17)
    labels[:, 0, 3:9, 4:12, 4:12] = 1
    labels[:, 1, 9:13, 4:12, 4:12] = 1
    labels[:, 0, 14:, 15:, 14:] = 1
    return labels


def test_labels_stay_exclusive_and_only_some_samples_change() -> None:
    before = two_labels(400)
    after = perturb(before, seed=3, step=5)
    assert after.dtype == before.dtype
    assert set(after.unique().tolist()) <= {0.0, 1.0}
    assert after.sum(1).max() == 1
    changed = (after != before).flatten(1).any(1).float().mean()
    # something is done to 1 - (1 - 0.4 * 0.75) * (1 - 0.2 * 0.75) = 40.5 % of the samples; opening and closing a box
    # by a small radius may leave it as it was, and a label without a small part loses none
    assert 0.25 < changed < 0.45


def test_the_same_sample_is_changed_alike_in_any_batch() -> None:
    whole = perturb(two_labels(6), seed=1, step=2)
    parts = [perturb(two_labels(2), seed=1, step=2, first_sample=i) for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(perturb(two_labels(6), seed=1, step=3), whole)


def test_a_small_part_is_dropped_and_a_large_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MORPHOLOGY_P", 0.0)
    monkeypatch.setattr(stage, "DROP_P", 1.0)
    monkeypatch.setattr(stage, "DROP_LABEL_P", 1.0)
    before = torch.zeros(1, 1, 10, 10, 10)
    before[0, 0, :5, :5, :8] = 1  # 20 % of the patch: too large
    before[0, 0, 8:, 8:, 9:] = 1
    before[0, 0, 0, 9, 9] = 1
    seen = set()
    for step in range(20):
        after = perturb(before, seed=0, step=step)[0, 0]
        assert after[:5, :5, :8].all()
        seen.add((int(after[8:, 8:, 9:].sum()), int(after[0, 9, 9])))
    assert seen == {(4, 0), (0, 1)}


def test_a_part_of_a_plane_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MORPHOLOGY_P", 0.0)
    monkeypatch.setattr(stage, "DROP_P", 1.0)
    monkeypatch.setattr(stage, "DROP_LABEL_P", 1.0)
    before = torch.zeros(1, 1, 12, 9)
    before[0, 0, 2:4, 2:4] = 1
    assert not perturb(before, seed=0, step=0).any()


def test_frequencies_are_those_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, list[int]]] = []
    monkeypatch.setattr(
        stage, "_change_shape", lambda masks, samples, label, random: calls.append((label, list(samples)))
    )
    monkeypatch.setattr(stage, "DROP_P", 0.0)
    n = 4000
    perturb(torch.zeros(n, 2, 1, 1), seed=0, step=0)
    per_label = [sum(len(samples) for label, samples in calls if label == k) / n for k in (0, 1)]
    assert per_label == pytest.approx([0.2, 0.2], abs=0.025)
    both = len(set(calls[0][1]) & set(calls[1][1])) / n
    assert both == pytest.approx(0.1, abs=0.02)


def test_its_random_numbers_are_not_those_of_the_other_changes() -> None:
    one, other = (generator_for(seed=1, step=1, sample=1, **kind).random(4) for kind in ({}, {"stream": stage.STREAM}))
    assert not np.array_equal(one, other)
