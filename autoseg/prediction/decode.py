"""Slabs of logits on the network's grid -> logits, then labels, on the image's grid, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme
from autoseg.ops.resample import resize_axis

Shape = tuple[int, int, int]
CHUNK_BYTES = 2**24  # of resampled logits at a time; larger chunks are not faster


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
        float32 (n_outputs, rows, *shape_out[1:]) in order; the rows add up to shape_out[0]. A block is valid until the
        next one is asked for.
    """
    low, high, weight = _interpolation(shape_in[0], shape_out[0], nearest=separate_axis == 0)
    plane = _Plane(shape_in[1:], shape_out[1:], separate_axis)
    n_held = first = next_out = 0  # rows in the buffer, the number of the first of them, the next row to put out
    held = blended = torch.empty(0)
    for slab in slabs:
        row_bytes = slab.shape[0] * max(slab[0, 0].numel(), shape_out[1] * shape_out[2]) * slab.element_size()
        at_once = max(1, CHUNK_BYTES // row_bytes)
        if not held.numel():  # both are filled again and again: large blocks that come and go would scatter the memory
            held, blended = (slab.new_empty((n, slab.shape[0], *shape_out[1:])) for n in (at_once + 1, at_once))
        for chunk in torch.split(slab, at_once, dim=1):
            if n_held:
                held[0].copy_(held[n_held - 1])
                n_held, first = 1, first + n_held - 1
            for row in range(chunk.shape[1]):
                plane.resize(chunk[:, row], out=held[n_held])
                n_held += 1
            while next_out < shape_out[0] and high[next_out] < first + n_held:
                rows = [i for i in range(next_out, min(next_out + at_once, shape_out[0])) if high[i] < first + n_held]
                for i, row in enumerate(rows):
                    torch.lerp(held[low[row] - first], held[high[row] - first], float(weight[row]), out=blended[i])
                next_out += len(rows)
                yield blended[: len(rows)].transpose(0, 1)
    assert next_out == shape_out[0], "the slabs did not cover the image"


class _Plane:
    """Linear resizing of (n, Y, X) to (n, *shape_out), nearest along a separate in-plane axis.

    torch's own interpolation rounds its positions to float32, which moves logits by up to 1e-4 and some labels.
    """

    def __init__(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...], separate_axis: int | None) -> None:
        self._steps: list[tuple[int, NDArray[np.float64]]] = []
        for axis, (n_in, n_out) in enumerate(zip(shape_in, shape_out, strict=True), start=1):
            if n_in != n_out:
                low, high, weight = _interpolation(n_in, n_out, nearest=separate_axis == axis)
                matrix = np.zeros((n_out, n_in))
                matrix[range(n_out), low] = 1 - weight
                matrix[range(n_out), high] += weight
                self._steps.append((axis, matrix))
        self._between: torch.Tensor | None = None

    def resize(self, logits: torch.Tensor, *, out: torch.Tensor) -> None:
        """Resize into `out`."""
        if not self._steps:
            out.copy_(logits)
            return
        for axis, matrix in self._steps[:-1]:
            shape = list(logits.shape)
            shape[axis] = len(matrix)
            if self._between is None:
                self._between = logits.new_empty(shape)
            logits = resize_axis(logits, matrix, axis=axis, out=self._between)
        axis, matrix = self._steps[-1]
        resize_axis(logits, matrix, axis=axis, out=out)


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
