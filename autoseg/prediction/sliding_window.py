"""Tiles in slab order: logits of an image, row by row, without ever holding them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby, product

import torch

from autoseg.core.errors import DeviceError
from autoseg.ops.tiling import gaussian_window, padding, summed_window, tile_starts

Shape = tuple[int, int, int]
CPU_TILE_VOXELS = 2**18  # more voxels at a time do not make a CPU faster
GPU_TILE_VOXELS = 2**22
SLAB_BYTES = 2**26  # of finished rows handed out at a time; they lie in memory beside the accumulator


def stream_logits(
    image: torch.Tensor,
    network: Callable[[torch.Tensor], torch.Tensor],
    *,
    patch_size: tuple[int, ...],
    n_outputs: int,
    step: float,
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[torch.Tensor]:
    """Slide the network over the image and yield finished slabs of logits in order along the first axis.

    An accumulator of patch_size[0] rows is reused as a ring: once no later tile reaches a row, the row is divided by
    its summed weight, handed out and cleared. So memory is n_outputs x patch rows x cross-section, however long the
    image is.

    Args:
        image: float32 (C, Z, Y, X).
        network: (B, C, *patch) -> logits (B, n_outputs, *patch), both on `device`.
        patch_size: two entries (every slice is a tile of its own) or three.
        n_outputs: channels of the logits.
        step: share of the patch between tiles, in (0, 1].
        device: where the network and the accumulator are.
        progress: called with the share of tiles that are done.

    Yields:
        float32 (n_outputs, rows, Y, X) on `device`; the rows of all slabs add up to Z.

    Raises:
        DeviceError: a logit is infinite or no number.
    """
    flat = len(patch_size) == 2
    patch: Shape = (1, *patch_size) if flat else patch_size  # type: ignore[assignment]
    pads = padding(tuple(image.shape[1:]), patch)
    padded = torch.nn.functional.pad(image, [n for pad in reversed(pads) for n in pad])
    shape: Shape = tuple(padded.shape[1:])  # type: ignore[assignment]
    inner = tuple(slice(before, n - after) for n, (before, after) in zip(shape, pads, strict=True))
    windows = [torch.from_numpy(gaussian_window(n)).float().to(device) for n in patch]
    window = windows[0][:, None, None] * windows[1][:, None] * windows[2]
    sums = [
        torch.from_numpy(summed_window(n, p, step=step)).float().to(device) for n, p in zip(shape, patch, strict=True)
    ]
    ring = torch.zeros(n_outputs, patch[0], *shape[1:], device=device)
    slab_rows = max(1, SLAB_BYTES // (ring[:, 0].numel() * ring.element_size()))

    def add(z: int, corners: list[tuple[int, ...]]) -> None:
        # In a function, so that these logits are freed before the network is asked for the next.
        tiles = torch.stack([padded[_box(corner, patch)] for corner in corners]).to(device)
        logits = network(tiles[:, :, 0])[:, :, None] if flat else network(tiles)
        for (_, y, x), tile in zip(corners, logits, strict=True):
            for start, stop in _ring_runs(z, z + patch[0], patch[0], longest=patch[0]):
                target = ring[:, start % patch[0] : start % patch[0] + stop - start]
                rows = slice(start - z, stop - z)
                target[:, :, y : y + patch[1], x : x + patch[2]].addcmul_(tile[:, rows], window[rows])

    def finished(first: int, last: int) -> Iterator[torch.Tensor]:
        for start, stop in _ring_runs(first, last, patch[0], longest=slab_rows):
            rows = ring[:, start % patch[0] : start % patch[0] + stop - start]
            done = rows / (sums[0][start:stop, None, None] * sums[1][:, None] * sums[2])
            rows.zero_()
            if not bool(done.sum().isfinite()):
                raise DeviceError(
                    "the answer of the network is not finite: damaged weights, or a precision too low; predict on "
                    "a device that computes in bf16 or float32, or train again"
                )
            low, high = max(start, inner[0].start), min(stop, inner[0].stop)
            if low < high:
                yield done[:, low - start : high - start, inner[1], inner[2]]

    starts = [tile_starts(n, p, step=step) for n, p in zip(shape, patch, strict=True)]
    at_once = max(1, (CPU_TILE_VOXELS if device.type == "cpu" else GPU_TILE_VOXELS) // window.numel())
    emitted, n_tiles, n_done = 0, len(starts[0]) * len(starts[1]) * len(starts[2]), 0
    for z, corners in groupby(product(*starts), key=lambda corner: corner[0]):
        yield from finished(emitted, z)
        emitted = z
        for group in _batches(list(corners), at_once):
            add(z, group)
            n_done += len(group)
            progress(n_done / n_tiles)
    yield from finished(emitted, shape[0])


def _ring_runs(first: int, last: int, length: int, *, longest: int) -> list[tuple[int, int]]:
    """Split the rows first..last into runs of at most `longest`, each contiguous in a ring of `length` rows."""
    runs, start = [], first
    while start < last:
        stop = min(last, (start // length + 1) * length, start + longest)
        runs.append((start, stop))
        start = stop
    return runs


def _box(corner: tuple[int, ...], patch: Shape) -> tuple[slice, ...]:
    return (slice(None), *(slice(start, start + n) for start, n in zip(corner, patch, strict=True)))


def _batches(items: list[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]
