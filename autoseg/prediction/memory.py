"""What a prediction will hold, by arithmetic before its first tile, and the way of working that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

import torch

from autoseg.core.errors import DeviceError
from autoseg.io.probability_file import COLLECTED_BYTES
from autoseg.nets.memory import inference_memory_gb
from autoseg.prediction.decode import CHUNK_BYTES
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.sliding_window import ANSWER_BYTES, SLAB_BYTES, usual_tiles

Place = Literal["device", "memory", "file"]
SHARE = 0.9  # of the memory that is free; arithmetic is not exact
NATIVE_BLOCKS = 3  # of resampled logits: rows on both sides, the rows between them, the probabilities of these


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One model's part of a prediction: its accumulator, and what its networks hold per tile, in gigabytes (1e9)."""

    accumulator_gb: float
    tile_gb: float
    usual_tiles: int
    kept_gb: float = 0.0  # on the device: rows that are handed out, the answer to an empty tile
    answer_gb: float = 0.0  # to a tile, which goes to main memory where the sums are not on the GPU
    padded_gb: float = 0.0  # in main memory: the image once more, with its margin


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
    configuration, n_outputs, patch = ensemble.configuration, ensemble.n_outputs, ensemble.patch
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    tile_gb = inference_memory_gb(
        configuration.network,
        configuration.patch_size,
        n_channels=ensemble.n_channels,
        n_outputs=n_outputs,
        precision=ensemble.precision,
    )
    row, channels = 4 * n_outputs * padded[1] * padded[2], len(ensemble.plan.channel_names)
    return Stream(
        accumulator_gb=row * patch[0] / 1e9,
        tile_gb=tile_gb,
        usual_tiles=usual_tiles(patch, ensemble.device),
        kept_gb=(2 * max(SLAB_BYTES, row) + min(ANSWER_BYTES, 4 * n_outputs * prod(patch))) / 1e9,
        answer_gb=4e-9 * n_outputs * prod(patch),
        # a cascade's image is copied once more, when the earlier stage's labels are laid beside it
        padded_gb=4e-9 * (channels if ensemble.previous is None else 2 * (channels + 1)) * prod(padded),
    )


def plan_memory(
    streams: Sequence[Stream],
    *,
    n_outputs: int,
    native_shape: Sequence[int],
    next_case_gb: float,
    host_gb: float,
    device_gb: float | None,
    probabilities: bool = False,
) -> MemoryPlan:
    """Choose the fastest way of working that fits.

    What is given up, in this order: many tiles at a time, reading ahead, sums on the GPU, sums in memory.

    Args:
        streams: of every model of the ensemble; they run side by side.
        n_outputs: channels of the logits.
        native_shape: of the image that the labels are for.
        next_case_gb: what reading the next case takes.
        host_gb: main memory that may be used, beyond what the process holds.
        device_gb: memory that is free on the GPU, None without one.
        probabilities: whether they are written too.

    Raises:
        DeviceError: not even one tile at a time fits.
    """
    row = 4e-9 * n_outputs * native_shape[1] * native_shape[2]
    # several models' rows are stacked, turned into probabilities and averaged
    n_blocks = NATIVE_BLOCKS * len(streams) + (len(streams) + 2 if len(streams) > 1 else 0)
    block = max(CHUNK_BYTES / 1e9, row)
    blocks = (n_blocks + probabilities) * block + sum(stream.kept_gb for stream in streams)
    padded = sum(stream.padded_gb for stream in streams)
    labels = 4 * 2e-9 * prod(native_shape)  # inside the crop, in the whole image, as stored, and compressed
    if probabilities:  # scaled; as bytes collected, joined and turned
        labels += block + 3 * (COLLECTED_BYTES / 1e9 + block / 4)
    sums = sum(stream.accumulator_gb for stream in streams)
    moved = max(stream.answer_gb for stream in streams)
    most = max(stream.usual_tiles for stream in streams)
    counts = sorted({max(1, most >> shift) for shift in range(most.bit_length())}, reverse=True)
    on_gpu = device_gb is not None
    places: tuple[Place, ...] = ("device", "memory", "file") if on_gpu else ("memory", "file")
    for place in places:
        for ahead in (True, False):
            for n in counts:
                host = labels + padded + (next_case_gb if ahead else 0) + (sums if place == "memory" else 0)
                host += moved if on_gpu and place != "device" else 0
                device = blocks + _tiles_gb(streams, n) + (sums if place == "device" else 0)
                if not on_gpu:
                    host, device = host + device, 0.0
                if host <= SHARE * host_gb and device <= SHARE * (device_gb or 0):
                    return MemoryPlan(place=place, tiles_at_once=n, read_ahead=ahead, host_gb=host, device_gb=device)
    least = blocks + _tiles_gb(streams, 1)
    host = labels + padded + (0 if on_gpu else least)
    found = f"one tile at a time needs {host:.1f} GB of memory"
    where = f"{SHARE * host_gb:.1f} GB may be used"
    if on_gpu:
        found += f" and {least:.1f} GB on the GPU"
        where += f" and {SHARE * (device_gb or 0):.1f} GB on the GPU"
    todo = "use a larger machine, or --device cpu" if on_gpu else "use a larger machine"
    if (short := host / SHARE - host_gb) > 0:
        more = f"{ceil(10 * short) / 10:.1f} GB"
        todo = f"close other programs or raise --max_memory_gb, by {more}, or use a larger machine"
    raise DeviceError(f"{found}, and {where}; {todo}")


def _tiles_gb(streams: Sequence[Stream], n: int) -> float:
    """What the networks hold: one model at a time looks at tiles."""
    return max(min(n, stream.usual_tiles) * stream.tile_gb for stream in streams)


def torch_device_gb(device: torch.device) -> float | None:
    """Memory that is free on a GPU, None on a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # what PyTorch holds in reserve is free for the next tensor
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + reserve) / 1e9
