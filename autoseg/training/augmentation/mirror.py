"""Flipping, with left and right staying what they are called."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from autoseg.ops.stage_input import exchange


def flip(
    image: Tensor, labels: Tensor, *, axes: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Flip image (n, C, *space) and labels (n, L, *space) along `axes` of space; swap label `pairs`."""
    dims = [axis + 2 for axis in axes]
    return image.flip(dims), exchange(labels.flip(dims), pairs)
