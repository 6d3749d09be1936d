"""Whether the name of a channel, which decides its normalisation, fits the intensities in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg.core.errors import Problem
from autoseg.core.fingerprint import Fingerprint

# Hounsfield units: air is -1000 (a padded corner may hold down to -3100), fat -100, water 0, dense bone 2000, metal up
# to 32767. A CT with neither air nor fat anywhere, without anything above fat, or with values far below air is none.
AIR, PADDING, FAT, METAL = -900.0, -3200.0, -100.0, 33000.0


def doubtful_channels(names: Sequence[str], fingerprint: Fingerprint) -> list[Problem]:
    """Warnings about channels called CT that hold no Hounsfield units, and about others that look as if they did."""
    warnings = []
    for channel, name in enumerate(names):
        ranges = np.array(fingerprint.ranges.get(str(channel), []))
        if not len(ranges):
            continue
        low, high = ranges[:, 0], ranges[:, 1]
        no_ct = (low > FAT) | (high < FAT) | (low < PADDING) | (high > METAL)
        like_ct = (low <= AIR) & (low >= PADDING) & (high >= -FAT) & (high <= METAL)
        typical = f"{np.median(low):g} to {np.median(high):g}"
        if name.casefold() == "ct" and no_ct.mean() > 0.5:
            found = f"channel '{name}' holds no Hounsfield units in {no_ct.sum()} of {len(ranges)} cases ({typical})"
            todo = "convert the images, or name the channel differently: by this name it is normalised as a CT"
        elif name.casefold() != "ct" and like_ct.mean() > 0.5:
            found = f"channel '{name}' looks like a CT in {like_ct.sum()} of {len(ranges)} cases ({typical})"
            todo = "if it is one, call the channel CT: by this name Hounsfield units lose their meaning"
        else:
            continue
        warnings.append(Problem(case="", file="dataset.json", found=found, next=todo))
    return warnings
