"""What a prediction will hold, by arithmetic before its first tile, and the way of working that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch

from autoseg.core.errors import DeviceError
from autoseg.nets.memory import inference_memory_gb
from autoseg.prediction.decode import CHUNK_BYTES
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.sliding_window import SLAB_BYTES, usual_tiles

Place = Literal["device", "memory", "file"]
SHARE = 0.9  # of the memory that is free; arithmetic is not exact
NATIVE_BLOCKS = 4  # of resampled logits at a time: two input blocks, their rows, and what is decoded of them


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One model's part of a prediction: its accumulator, and what its networks hold per tile, in gigabytes (1e9)."""

    accumulator_gb: float
    tile_gb: float
    usual_tiles: int


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a case is predicted: where sums are kept, tiles at a time, and whether the next case is read meanwhile.

    `host_gb` and `device_gb` are what this needs in main memory, beyond what the process holds, and on a GPU.
    """

    place: Place
    tiles_at_once: int
    read_ahead: bool
    host_gb: float
    device_gb: float = 0.0

    def __str__(self) -> str:
        where = {"device": "on the GPU", "memory": "in memory", "file": "in a file on disk"}[self.place]
        on_device = f" and {self.device_gb:.1f} GB on the GPU" if self.device_gb else ""
        ahead = "the next case is read meanwhile" if self.read_ahead else "the next case is read afterwards"
        tiles = f"{self.tiles_at_once} tile{'s' if self.tiles_at_once > 1 else ''} at a time"
        return f"sums of logits {where}, {tiles}, {ahead}: about {self.host_gb:.1f} GB{on_device}"


def stream_of(ensemble: Ensemble, shape: Sequence[int]) -> Stream:
    """What predicting an image of `shape` (on the grid of the ensemble's network) needs."""
    configuration, n_outputs = ensemble.configuration, ensemble.n_outputs
    patch = (1, *configuration.patch_size)[-3:]
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    tile_gb = inference_memory_gb(
        configuration.network,
        configuration.patch_size,
        n_channels=len(ensemble.plan.channel_names),
        n_outputs=n_outputs,
        precision=ensemble.precision,
    )
    return Stream(
        accumulator_gb=4e-9 * n_outputs * patch[0] * padded[1] * padded[2],
        tile_gb=tile_gb,
        usual_tiles=usual_tiles(patch, ensemble.device),
    )


def plan_memory(
    streams: Sequence[Stream],
    *,
    n_outputs: int,
    native_shape: Sequence[int],
    next_case_gb: float,
    host_gb: float,
    device_gb: float | None,
) -> MemoryPlan:
    """Choose the fastest way of working that fits.

    What is given up, in this order: many tiles at a time, reading ahead, sums in memory. On a GPU the sums move to
    main memory before the tiles go down to one.

    Args:
        streams: of every model of the ensemble; they run side by side.
        n_outputs: channels of the logits.
        native_shape: of the image that the labels are for.
        next_case_gb: what reading the next case takes.
        host_gb: main memory that may be used, beyond what the process holds.
        device_gb: memory that is free on the GPU, None without one.

    Raises:
        DeviceError: not even one tile at a time fits.
    """
    row = 4e-9 * n_outputs * native_shape[1] * native_shape[2]
    blocks = NATIVE_BLOCKS * max(CHUNK_BYTES / 1e9, row) + len(streams) * 2 * SLAB_BYTES / 1e9
    labels = 4 * 2e-9 * prod(native_shape)  # inside the crop, in the whole image, as stored, and compressed
    sums = sum(stream.accumulator_gb for stream in streams)
    tile = max(stream.tile_gb for stream in streams)
    most = max(stream.usual_tiles for stream in streams)
    counts = sorted({max(1, most >> shift) for shift in range(most.bit_length())}, reverse=True)
    on_gpu = device_gb is not None
    places: tuple[Place, ...] = ("device", "memory", "file") if on_gpu else ("memory", "file")
    for place in places:
        for ahead in (True, False):
            for n in counts:
                host = labels + (next_case_gb if ahead else 0) + (sums if place == "memory" else 0)
                device = blocks + n * tile + (sums if place == "device" else 0)
                if not on_gpu:
                    host, device = host + device, 0.0
                if host <= SHARE * host_gb and device <= SHARE * (device_gb or 0):
                    return MemoryPlan(place=place, tiles_at_once=n, read_ahead=ahead, host_gb=host, device_gb=device)
    found = f"one tile at a time needs {labels + (0 if on_gpu else blocks + tile):.1f} GB of memory"
    where = f"{host_gb:.1f} GB may be used"
    if on_gpu:
        found += f" and {blocks + tile:.1f} GB on the GPU"
        where += f" and {device_gb:.1f} GB are free on the GPU"
    raise DeviceError(f"{found}, and {where}; close other programs, raise --max_memory_gb, or use a larger machine")


def torch_device_gb(device: torch.device) -> float | None:
    """Memory that is free on a GPU, None on a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # what PyTorch holds in reserve is free for the next tensor
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + reserve) / 1e9
