"""Flipping, with left and right staying what they are called."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def flip(
    image: Tensor, labels: Tensor, *, axes: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Flip image (n, C, *space) and labels (n, L, *space) along `axes` of space; swap label `pairs`."""
    dims = [axis + 2 for axis in axes]
    return image.flip(dims), exchange(labels.flip(dims), pairs)


def exchange(labels: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Replace a by b and b by a for each pair of label values (>= 0); all others stay, negative ones too."""
    if not pairs:
        return labels
    table = torch.arange(max(max(pair) for pair in pairs) + 1, dtype=labels.dtype)
    for a, b in pairs:
        table[a], table[b] = table[b].item(), table[a].item()
    last = len(table) - 1
    swapped = table.to(labels.device)[labels.clamp(0, last).long()]
    return torch.where((labels >= 0) & (labels <= last), swapped, labels)
