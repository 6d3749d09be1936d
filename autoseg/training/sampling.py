"""Which case, and which part of it, each sample of a batch shows: drawn from (seed, step, sample) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from numpy.typing import NDArray

from autoseg.io.case_store import CaseStore
from autoseg.io.class_index import ClassIndex, index_file, open_index

ANNOTATED = -1  # locations of all annotated voxels, there when the data set has an ignore label


@dataclass(frozen=True, kw_only=True)
class CropRules:
    """What the crops of one run look like.

    `patch_size` is what the network sees, `crop_size` what is read (more, so that rotated patches are filled).
    `foreground_share` of each batch is centred on a voxel of a random class of its case.
    """

    store: Path
    cases: tuple[str, ...]
    batch_size: int
    patch_size: tuple[int, ...]
    crop_size: tuple[int, ...]
    foreground_share: float
    seed: tuple[int, ...]


def read_batch(rules: CropRules, step: int) -> dict[str, NDArray]:
    """Read the crops of one training step.

    Returns:
        image: float32 (B, C, *crop_size), zeros beyond the image; label: int16 (B, 1, *crop_size), -1 beyond it;
        step: the step's number.
    """
    store, index = CaseStore(rules.store), _index(rules.store, index_file(rules.store).stat().st_mtime_ns)
    first_forced = round(rules.batch_size * (1 - rules.foreground_share))
    samples = [
        _read_sample(
            store, index, rules, np.random.default_rng([*rules.seed, step, sample]), forced=sample >= first_forced
        )
        for sample in range(rules.batch_size)
    ]
    images, labels = zip(*samples, strict=True)
    return {"image": np.stack(images), "label": np.stack(labels), "step": np.array(step)}


@lru_cache(maxsize=2)
def _index(store: Path, changed_ns: int) -> ClassIndex:
    return open_index(store)


def _read_sample(
    store: CaseStore, index: ClassIndex, rules: CropRules, rng: np.random.Generator, *, forced: bool
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    name = rules.cases[rng.integers(len(rules.cases))]
    flat = len(rules.patch_size) == 2
    crop = (1, *rules.crop_size) if flat else rules.crop_size
    patch = (1, *rules.patch_size) if flat else rules.patch_size
    centre = _centre(index, name, rng, forced=forced)
    start = _crop_start(index.cases[name].shape, crop, patch, centre, rng)
    case = store.open(name)
    box = [[low, low + size] for low, size in zip(start, crop, strict=True)]
    image = crop_and_pad_nd(case.image, box, 0)
    label = crop_and_pad_nd(case.label, box, -1)[None]
    return (image[:, 0], label[:, 0]) if flat else (image, label)


def _centre(index: ClassIndex, case: str, rng: np.random.Generator, *, forced: bool) -> NDArray[Any] | None:
    """Voxel to centre the crop on: of a random class present in the case when forced, else None.

    With an ignore label, unforced crops are centred on a random annotated voxel, or they would often show none.
    """
    held = index.classes(case)
    classes = [key for key in held if key != ANNOTATED]
    if forced and classes:
        locations = index.locations(case, classes[rng.integers(len(classes))])
    elif ANNOTATED in held:
        locations = index.locations(case, ANNOTATED)
    else:
        return None
    return np.asarray(locations[rng.integers(len(locations))])


def _crop_start(
    shape: Sequence[int],
    crop: Sequence[int],
    patch: Sequence[int],
    centre: NDArray[Any] | None,
    rng: np.random.Generator,
) -> list[int]:
    """First voxel of the crop along each axis; may be negative.

    Random crops may reach over the border by half the margin between crop and patch, so that the patch inside covers
    the border evenly (reference rules, section 5).
    """
    starts = []
    for axis, (size, wanted, inner) in enumerate(zip(shape, crop, patch, strict=True)):
        margin = max(wanted - inner, wanted - size)
        low, high = -(margin // 2), size + margin // 2 + margin % 2 - wanted
        if centre is None:
            starts.append(int(rng.integers(low, max(high, low) + 1)))
        else:
            starts.append(max(low, int(centre[axis]) - wanted // 2))
    return starts
