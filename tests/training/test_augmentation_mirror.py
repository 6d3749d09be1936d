"""Flipping exchanges what is left and right, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoseg.training.augmentation.mirror import exchange, flip


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_image_and_labels_flip_along_the_same_axes(axes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((2, 3, 4, 5, 6), generator=generator)
    labels = torch.randint(-1, 4, (2, 1, 4, 5, 6), generator=generator, dtype=torch.int16)
    new_image, new_labels = flip(image, labels, axes=axes, pairs=())
    numpy_axes = tuple(axis + 2 for axis in axes)
    np.testing.assert_array_equal(new_image.numpy(), np.flip(image.numpy(), numpy_axes))
    np.testing.assert_array_equal(new_labels.numpy(), np.flip(labels.numpy(), numpy_axes))


def test_a_left_kidney_is_still_on_the_left_after_the_flip() -> None:
    liver, left, right = 1, 4, 2
    labels = torch.tensor([[[[left, left, 0, liver, right, -1]]]], dtype=torch.int16)
    _, new_labels = flip(labels.float(), labels, axes=(1,), pairs=((left, right),))
    assert new_labels.flatten().tolist() == [-1, left, liver, 0, right, right]


def test_exchange_touches_only_the_pairs() -> None:
    labels = torch.arange(-2, 400, dtype=torch.int16)
    expected = labels.clone()
    expected[[3 + 2, 7 + 2, 20 + 2, 300 + 2]] = torch.tensor([7, 3, 300, 20], dtype=torch.int16)
    found = exchange(labels, ((3, 7), (300, 20)))
    assert found.dtype == torch.int16
    assert torch.equal(found, expected)
    assert torch.equal(exchange(found, ((3, 7), (300, 20))), labels)


def test_without_pairs_labels_stay() -> None:
    labels = torch.tensor([-1, 0, 5])
    assert torch.equal(exchange(labels, ()), labels)
