"""One colour per label value, the same in every file, told apart as well as many colours can be."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

# After Okabe and Ito, told apart by nearly everybody; brightened where they would be lost on a dark image.
FIRST_COLOURS = ("#E69F00", "#56B4E9", "#00B583", "#F0E442", "#D55E00",
                 "#CC79A7", "#2F8FE0", "#B9E34A", "#A98BFF", "#FF6F91")  # fmt: skip
# From here on colours come again: more can hardly be told apart.
N_COLOURS = 512
# In CIE Lab: what is darker, lighter or greyer than this is lost in a grey image.
_LIGHTNESS, _LEAST_CHROMA = (38, 95), 20


def label_colour(value: int) -> tuple[int, int, int]:
    """Colour of a label value: red, green and blue from 0 to 255.

    It depends on nothing but the value, so a label keeps its colour whatever other labels there are. Values 1, 2, ...
    get FIRST_COLOURS, then colours chosen one by one, each as far as possible from all before.
    """
    red, green, blue = _colours()[(value - 1) % N_COLOURS]
    return red, green, blue


@cache
def _colours() -> list[list[int]]:
    steps = np.arange(0, 256, 15)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _lab(candidates)
    visible = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1]) & (np.hypot(*lab[:, 1:].T) > _LEAST_CHROMA)
    candidates, lab = candidates[visible], lab[visible]
    chosen = [list(bytes.fromhex(colour[1:])) for colour in FIRST_COLOURS]
    distance = np.min([((lab - first) ** 2).sum(axis=1) for first in _lab(np.array(chosen))], axis=0)
    while len(chosen) < N_COLOURS:
        furthest = int(distance.argmax())
        chosen.append(candidates[furthest].tolist())
        distance = np.minimum(distance, ((lab - lab[furthest]) ** 2).sum(axis=1))
    return chosen


def _lab(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    """Rows of sRGB (n, 3), 0 to 255, as CIE Lab (D65), where distances are about what the eye sees."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    relative = linear @ np.array(to_xyz).T / np.sum(to_xyz, axis=1)
    x, y, z = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative * (29 / 6) ** 2 / 3 + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
