"""How strongly a network's encoder answers to an image, and how unusual that is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.nets.build import channels_last
from autoseg.nets.device import autocast
from autoseg.nets.unet import UNet
from autoseg.ops.tiling import padding, tile_starts
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.image import PreparedImage

MOST_TILES = 8  # of an image
LEAST_VARIANCE = 1e-12  # a channel that answers to nothing


def has_features(member: Ensemble) -> bool:
    """Whether features of an image can be had: not of networks without an encoder, or that see labels too."""
    able = (isinstance(network, UNet) and network.has_features for network in member.networks)
    return member.previous is None and all(able)


@torch.inference_mode()
def image_features(member: Ensemble, image: Any) -> NDArray[np.float64]:
    """How strongly each channel of the encoder varies before it is normalised: the logarithm of its standard deviation.

    The variance is the mean over a few tiles, evenly spread in the image, always at the same places, not mirrored.

    Args:
        member: networks of one configuration, for which `has_features`.
        image: (C, Z, Y, X) as the networks see it; only the tiles are read, so it may lie on disk.

    Returns:
        (n_networks, n_features).
    """
    networks = [network for network in member.networks if isinstance(network, UNet)]
    assert has_features(member)
    boxes = tile_boxes(image.shape[1:], member.patch)
    total = np.zeros((len(networks), networks[0].n_features))
    flat = member.configuration.dimensions == 2
    for box in boxes:
        tile = torch.from_numpy(np.ascontiguousarray(image[(slice(None), *box)], dtype=np.float32))
        pads = padding(tuple(tile.shape[1:]), member.patch)
        tile = torch.nn.functional.pad(tile, [n for pad in reversed(pads) for n in pad])[None].to(member.device)
        tile = (tile[:, :, 0] if flat else tile).contiguous(
            memory_format=channels_last(member.configuration.dimensions)
        )
        for row, network in zip(total, networks, strict=True):
            with autocast(member.device, member.precision):
                row += network.features(tile)[0].double().cpu().numpy()
    features: NDArray[np.float64] = 0.5 * np.log(total / len(boxes) + LEAST_VARIANCE)
    return features


def out_of_distribution(members: Sequence[Ensemble], image: PreparedImage) -> float | None:
    """How far an image lies from the training images of the models, where 1 is unusual: see `Familiar`.

    The mean over the folds of all models that know their training images; of a cascade its first stage judges, since
    the second one sees labels too. None where no model knows them.
    """
    found: list[float] = []
    for member, case, earlier in zip(members, image.cases, image.earlier, strict=True):
        if member.previous is not None and earlier is not None:
            first = out_of_distribution([member.previous], earlier)
            found += [] if first is None else [first]
        elif any(one is not None for one in member.familiar):
            known = zip(member.familiar, image_features(member, case.image), strict=True)
            found += [float(one.strangeness(row[None])[0]) for one, row in known if one is not None]
    score = float(np.mean(found)) if found else np.nan
    return round(score, 4) if np.isfinite(score) else None


def tile_boxes(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[slice, ...]]:
    """At most `MOST_TILES` boxes of the size of a patch, or of the image where that is smaller, evenly spread."""
    starts = [tile_starts(max(n, p), p, step=1.0) for n, p in zip(shape, patch, strict=True)]
    corners = list(product(*starts))
    chosen = min(MOST_TILES, len(corners))
    places = [(2 * i + 1) * len(corners) // (2 * chosen) for i in range(chosen)]
    return [
        tuple(slice(start, min(start + p, n)) for start, p, n in zip(corners[place], patch, shape, strict=True))
        for place in places
    ]
