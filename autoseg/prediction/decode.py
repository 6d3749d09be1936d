"""Slabs of logits on the network's grid -> logits, then labels, on the image's grid, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme
from autoseg.ops.resample import resize_axis, resize_matrix

Shape = tuple[int, int, int]
CHUNK_BYTES = 2**26  # of resampled logits at a time; larger chunks are not faster


def native_rows(
    slabs: Iterable[torch.Tensor], *, shape_in: Shape, shape_out: Shape, separate_axis: int | None
) -> Iterator[torch.Tensor]:
    """Resample streamed logits linearly (nearest along `separate_axis`).

    The numbers are those of a linear resize of the whole volume with half-voxel centres and edge values beyond the
    border, but only the rows between two input rows are ever held.

    Args:
        slabs: float32 (n_outputs, rows, Y, X) in order; the rows add up to shape_in[0].
        shape_in: grid of the logits, (Z, Y, X).
        shape_out: grid of the result.
        separate_axis: axis (0, 1 or 2) along which the nearest voxel is taken, or None.

    Yields:
        float32 (n_outputs, rows, *shape_out[1:]) in order; the rows add up to shape_out[0].
    """
    low, high, weight = _interpolation(shape_in[0], shape_out[0], nearest=separate_axis == 0)
    row, last_row = 0, None
    next_out = 0
    for slab in slabs:
        per_row = slab.shape[0] * max(slab[0, 0].numel(), shape_out[1] * shape_out[2]) * slab.element_size()
        at_once = max(1, CHUNK_BYTES // per_row)
        for chunk in torch.split(slab, at_once, dim=1):
            rows = _resize_in_plane(chunk, shape_out[1:], separate_axis)
            base = row
            if last_row is not None:
                rows, base = torch.cat([last_row, rows], dim=1), row - 1
            row += chunk.shape[1]
            stop = next_out
            while stop < shape_out[0] and high[stop] < row:
                stop += 1
            for first in range(next_out, stop, at_once):
                piece = range(first, min(stop, first + at_once))
                yield _blend(rows, [(low[i] - base, high[i] - base, float(weight[i])) for i in piece])
            next_out, last_row = stop, rows[:, -1:].clone()
    assert next_out == shape_out[0], "the slabs did not cover the image"


def _blend(rows: torch.Tensor, wanted: Sequence[tuple[int, int, float]]) -> torch.Tensor:
    """For each (lower row, upper row, weight of the upper) the row between: (n, rows, Y, X) -> (n, wanted, Y, X)."""
    lowest = wanted[0][0]
    if all((lower, weight) == (lowest + i, 0) for i, (lower, _, weight) in enumerate(wanted)):
        return rows[:, lowest : lowest + len(wanted)]
    result = rows.new_empty((rows.shape[0], len(wanted), *rows.shape[2:]))
    for i, (lower, upper, weight) in enumerate(wanted):
        torch.lerp(rows[:, lower], rows[:, upper], weight, out=result[:, i])
    return result


def averaged(streams: Sequence[Iterator[torch.Tensor]], *, scheme: LabelScheme) -> Iterator[torch.Tensor]:
    """The mean of several models' answers, as logits: their probabilities are averaged, as nnU-Net does.

    Args:
        streams: of each model the logits float32 (n_outputs, rows, Y, X) in order, on the same grid; how many rows
            come at a time may differ between them.
        scheme: says whether outputs exclude each other.

    Yields:
        float32 (n_outputs, rows, Y, X), logits of the mean probabilities; those of a single model as they are.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    held: list[torch.Tensor | None] = [None] * len(streams)
    while True:
        for i, stream in enumerate(streams):
            if held[i] is None:
                held[i] = next(stream, None)
        blocks = [block for block in held if block is not None]
        if not blocks:
            return
        assert len(blocks) == len(streams), "the models' answers have different sizes"
        rows = min(block.shape[1] for block in blocks)
        mean = torch.stack([probabilities(block[:, :rows], scheme) for block in blocks]).mean(dim=0)
        yield torch.logit(mean, eps=1e-7) if scheme.has_regions else mean.clamp_min_(1e-12).log_()
        held = [block[:, rows:] if block.shape[1] > rows else None for block in blocks]


def probabilities(logits: torch.Tensor, scheme: LabelScheme) -> torch.Tensor:
    """Logits (n_outputs, *size) -> probabilities: of values that exclude each other, or of regions that do not."""
    return logits.sigmoid() if scheme.has_regions else logits.softmax(dim=0)


def decode(logits: torch.Tensor, scheme: LabelScheme) -> NDArray[np.unsignedinteger]:
    """Logits (n_outputs, *size) -> file values (*size) in the scheme's type: the likeliest label.

    With regions: the values of all regions with probability above 0.5, painted in `regions_class_order`.
    """
    if not scheme.has_regions:
        # half the time of argmax on a CPU
        return scheme.decode(logits.max(dim=0).indices.cpu().numpy())  # type: ignore[return-value]
    labels = torch.zeros(logits.shape[1:], dtype=torch.int64, device=logits.device)
    for region, value in zip(logits, scheme.regions_class_order, strict=True):
        labels[region > 0] = value  # a probability above 0.5 is a logit above 0
    return labels.cpu().numpy().astype(scheme.output_dtype)  # type: ignore[no-any-return]


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
