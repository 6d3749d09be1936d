"""The segmentation of an earlier stage as further input of a network: one channel per label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def one_hot(labels: Tensor, n_values: int) -> Tensor:
    """Values inside (B, *space), any type -> float32 (B, n_values - 1, *space): a channel per value from 1 on."""
    values = torch.arange(1, n_values, device=labels.device).reshape(1, -1, *[1] * (labels.ndim - 1))
    return (labels[:, None] == values).float()


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
