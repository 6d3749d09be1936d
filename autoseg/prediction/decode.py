"""Slabs of logits on the network's grid -> labels on the image's grid, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme
from autoseg.ops.resample import resize_axis, resize_matrix

Shape = tuple[int, int, int]
CHUNK_BYTES = 2**26  # of resampled logits at a time; larger chunks are not faster


def decode_stream(
    slabs: Iterable[torch.Tensor],
    *,
    shape_in: Shape,
    shape_out: Shape,
    separate_axis: int | None,
    scheme: LabelScheme,
) -> NDArray[np.unsignedinteger]:
    """Resample streamed logits linearly (nearest along `separate_axis`) and decode them.

    The numbers are those of a linear resize of the whole volume with half-voxel centres and edge values beyond the
    border, but only the rows between two input rows are ever held.

    Args:
        slabs: float32 (n_outputs, rows, Y, X) in order; the rows add up to shape_in[0].
        shape_in: grid of the logits, (Z, Y, X).
        shape_out: grid of the result.
        separate_axis: axis (0, 1 or 2) along which the nearest voxel is taken, or None.
        scheme: says what the outputs mean.

    Returns:
        (*shape_out) values inside the pipeline (uint16) for label schemes, values as in files (in the scheme's output
        type) for regions.
    """
    result = np.zeros(shape_out, dtype=scheme.output_dtype if scheme.has_regions else np.uint16)
    low, high, weight = _interpolation(shape_in[0], shape_out[0], nearest=separate_axis == 0)
    row, last_row = 0, None
    next_out = 0
    for slab in slabs:
        per_row = slab.shape[0] * max(slab[0, 0].numel(), shape_out[1] * shape_out[2]) * slab.element_size()
        for chunk in torch.split(slab, max(1, CHUNK_BYTES // per_row), dim=1):
            rows = _resize_in_plane(chunk, shape_out[1:], separate_axis)
            base = row
            if last_row is not None:
                rows, base = torch.cat([last_row, rows], dim=1), row - 1
            row += chunk.shape[1]
            stop = next_out
            while stop < shape_out[0] and high[stop] < row:
                stop += 1
            for i in range(next_out, stop):
                lower, upper = rows[:, low[i] - base], rows[:, high[i] - base]
                blended = lower if weight[i] == 0 else torch.lerp(lower, upper, float(weight[i]))
                result[i] = decode(blended, scheme).cpu().numpy()
            next_out, last_row = stop, rows[:, -1:].clone()
    assert next_out == shape_out[0], "the slabs did not cover the image"
    return result


def decode(logits: torch.Tensor, scheme: LabelScheme) -> torch.Tensor:
    """Logits (n_outputs, *size) -> int64 (*size): the likeliest value inside.

    With regions: the file values of all regions with probability above 0.5, painted in `regions_class_order`.
    """
    if not scheme.has_regions:
        return logits.max(dim=0).indices  # half the time of argmax on a CPU
    labels = torch.zeros(logits.shape[1:], dtype=torch.int64, device=logits.device)
    for region, value in zip(logits, scheme.regions_class_order, strict=True):
        labels[region > 0] = value  # a probability above 0.5 is a logit above 0
    return labels


def _interpolation(n_in: int, n_out: int, *, nearest: bool) -> tuple[list[int], list[int], NDArray[np.float64]]:
    """For each output row the two input rows around it and the weight of the second."""
    position = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    if nearest:
        position = np.floor(position + 0.5)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, n_in - 1)
    weight = position - low
    high = np.where(weight == 0, low, high)
    return low.tolist(), high.tolist(), weight


def _resize_in_plane(rows: torch.Tensor, shape: tuple[int, ...], separate_axis: int | None) -> torch.Tensor:
    """(n_outputs, rows, Y, X) -> (n_outputs, rows, *shape), linear, nearest along a separate in-plane axis.

    torch's own interpolation rounds its positions to float32, which moves logits by up to 1e-4 and some labels.
    """
    for axis, n_out in enumerate(shape, start=2):
        n_in = rows.shape[axis]
        if n_in == n_out:
            continue
        if separate_axis == axis - 1:
            index, _, _ = _interpolation(n_in, n_out, nearest=True)
            rows = rows.index_select(axis, torch.tensor(index, device=rows.device))
        else:
            rows = resize_axis(rows, resize_matrix(n_in, n_out, order=1), axis=axis)
    return rows
