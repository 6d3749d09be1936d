"""Tiles in slab order: logits of an image, row by row, without ever holding them all."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby, product
from math import prod
from pathlib import Path

import numpy as np
import torch

from autoseg.core.errors import DeviceError
from autoseg.ops.tiling import gaussian_window, padding, summed_window, tile_starts

Shape = tuple[int, int, int]
CPU_TILE_VOXELS = 2**18  # more voxels at a time do not make a CPU faster
GPU_TILE_VOXELS = 2**22
SLAB_BYTES = 2**26  # of finished rows handed out at a time; they lie in memory beside the accumulator
ANSWER_BYTES = 2**27  # of the answer to an empty tile that is kept for the next empty one
Network = Callable[[torch.Tensor], torch.Tensor]


def stream_logits(
    image: torch.Tensor,
    network: Network,
    *,
    patch_size: tuple[int, ...],
    n_outputs: int,
    step: float,
    device: torch.device,
    tiles_at_once: int | None = None,
    accumulator: Accumulator | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[torch.Tensor]:
    """Slide the network over the image and yield finished slabs of logits in order along the first axis.

    An accumulator of patch_size[0] rows is reused as a ring: once no later tile reaches a row, the row is divided by
    its summed weight, handed out and cleared. So memory is n_outputs x patch rows x cross-section, however long the
    image is. The answer to a tile that holds one value throughout (air around the body) serves the next such tile.

    Args:
        image: float32 (C, Z, Y, X).
        network: (B, C, *patch) -> logits (B, n_outputs, *patch), both on `device`.
        patch_size: two entries (every slice is a tile of its own) or three.
        n_outputs: channels of the logits.
        step: share of the patch between tiles, in (0, 1].
        device: where the network is.
        tiles_at_once: tiles that the network sees together; None stands for `usual_tiles`.
        accumulator: where the sums are kept; None stands for `device`.
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
    accumulator = accumulator or Accumulator(device)
    ring = accumulator.zeros((n_outputs, patch[0], *shape[1:]))
    slab_rows = max(1, SLAB_BYTES // (ring[:, 0].numel() * ring.element_size()))
    asked = _asked_once_when_empty((lambda tiles: network(tiles[:, :, 0])[:, :, None]) if flat else network, device)

    def add(z: int, corners: list[tuple[int, ...]]) -> None:
        # In a function, so that these logits are freed before the network is asked for the next.
        for (_, y, x), tile in zip(corners, asked([padded[_box(corner, patch)] for corner in corners]), strict=True):
            weighted = (tile * window).to(ring.device) if ring.device != tile.device else None
            for start, stop in _ring_runs(z, z + patch[0], patch[0], longest=patch[0]):
                rows = slice(start - z, stop - z)
                target = ring[:, start % patch[0] : start % patch[0] + stop - start]
                target = target[:, :, y : y + patch[1], x : x + patch[2]]
                if weighted is None:
                    target.addcmul_(tile[:, rows], window[rows])
                else:
                    target.add_(weighted[:, rows])
        accumulator.let_go()

    def finished(first: int, last: int) -> Iterator[torch.Tensor]:
        for start, stop in _ring_runs(first, last, patch[0], longest=slab_rows):
            rows = ring[:, start % patch[0] : start % patch[0] + stop - start]
            done = rows.to(device) / (sums[0][start:stop, None, None] * sums[1][:, None] * sums[2])
            rows.zero_()
            accumulator.let_go()
            if not bool(done.sum().isfinite()):
                raise DeviceError(
                    "the answer of the network is not finite: damaged weights, or a precision too low; predict on "
                    "a device that computes in bf16 or float32, or train again"
                )
            low, high = max(start, inner[0].start), min(stop, inner[0].stop)
            if low < high:
                yield done[:, low - start : high - start, inner[1], inner[2]]

    starts = [tile_starts(n, p, step=step) for n, p in zip(shape, patch, strict=True)]
    at_once = tiles_at_once or usual_tiles(patch, device)
    emitted, n_tiles, n_done = 0, len(starts[0]) * len(starts[1]) * len(starts[2]), 0
    for z, corners in groupby(product(*starts), key=lambda corner: corner[0]):
        yield from finished(emitted, z)
        emitted = z
        for group in _batches(list(corners), at_once):
            add(z, group)
            n_done += len(group)
            progress(n_done / n_tiles)
    yield from finished(emitted, shape[0])


def usual_tiles(patch_size: tuple[int, ...], device: torch.device) -> int:
    """Tiles that a network sees at a time where memory sets no limit."""
    return max(1, (CPU_TILE_VOXELS if device.type == "cpu" else GPU_TILE_VOXELS) // prod(patch_size))


class Accumulator:
    """Where sums of logits are kept: on a device, or with `folder` in a file there that is mapped into memory.

    The file has no name and disappears with the process. Its pages belong to the system, which writes them to disk
    when memory is needed; this process lets go of them after every tile.
    """

    def __init__(self, device: torch.device, *, folder: Path | None = None) -> None:
        self._device, self._folder = device, folder
        self._file: np.memmap | None = None

    def zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A float32 tensor of zeros. Raises OSError where the disk has no room for it."""
        if self._folder is None:
            return torch.zeros(shape, device=self._device)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the program when a page is written
                os.posix_fallocate(file.fileno(), 0, 4 * prod(shape))
            file.truncate(4 * prod(shape))
            self._file = np.memmap(file, dtype=np.float32, mode="r+", shape=shape)
        return torch.from_numpy(self._file)

    def let_go(self) -> None:
        """Give the pages of the file back to the system, which keeps what is in them."""
        mapped = None if self._file is None else self._file._mmap  # type: ignore[attr-defined]
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _asked_once_when_empty(
    network: Network, device: torch.device
) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    """The network as a function of a list of tiles (C, *patch); the last answer to a tile of one value is remembered.

    A network answers the same to the same input, wherever the tile lies.
    """
    known: dict[tuple[float, ...], torch.Tensor] = {}

    def answers(tiles: list[torch.Tensor]) -> list[torch.Tensor]:
        keys = [_single_values(tile) or i for i, tile in enumerate(tiles)]
        found: dict[tuple[float, ...] | int, torch.Tensor] = {key: known[key] for key in keys if key in known}  # type: ignore[index]
        new = {key: tile for key, tile in zip(keys, tiles, strict=True) if key not in found}
        if new:
            found.update(zip(new, network(torch.stack([*new.values()]).to(device)), strict=True))
        for key in new:
            if isinstance(key, tuple) and found[key].numel() * found[key].element_size() <= ANSWER_BYTES:
                known.clear()
                known[key] = found[key].clone()
        return [found[key] for key in keys]

    return answers


def _single_values(tile: torch.Tensor) -> tuple[float, ...] | None:
    """The value of each channel of a tile whose channels hold one value each, else None."""
    first = tile[:, :1, :1, :1]
    return tuple(first.flatten().tolist()) if bool((tile == first).all()) else None


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
