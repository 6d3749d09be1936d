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

from autoseg.io.case_store import CaseStore, StageStore
from autoseg.io.class_index import ClassIndex, index_file, open_index

ANNOTATED = -1  # locations of all annotated voxels, there when the data set has an ignore label


@dataclass(frozen=True, kw_only=True)
class CropRules:
    """What the crops of one run look like.

    `patch_size` is what the network sees, `crop_size` what is read (more, so that rotated patches are filled).
    `foreground_share` of each batch is centred on a voxel of a class. As a rule its case is drawn evenly, and one of
    the classes in it; `minimum_class_rate` assures every class of at least that share of an even one. `stage` is the
    folder of an earlier stage's segmentations, where there is one. Of several processes that share a step of
    `samples_in_all` samples, this one reads `batch_size` from `first_sample` on.
    """

    store: Path
    cases: tuple[str, ...]
    batch_size: int
    patch_size: tuple[int, ...]
    crop_size: tuple[int, ...]
    foreground_share: float
    seed: tuple[int, ...]
    minimum_class_rate: float = 0.0
    stage: Path | None = None
    first_sample: int = 0
    samples_in_all: int | None = None


def read_batch(rules: CropRules, step: int) -> dict[str, NDArray]:
    """Read the crops of one training step.

    Returns:
        image: float32 (B, C, *crop_size), zeros beyond the image; label: int16 (B, 1, *crop_size), -1 beyond it, with a
        second channel for the segmentation of an earlier stage;
        step: the step's number; cases: the id of each sample's case.
    """
    store = CaseStore(rules.store)
    index, draws = _opened(rules, index_file(rules.store).stat().st_mtime_ns)
    first_forced = round((rules.samples_in_all or rules.batch_size) * (1 - rules.foreground_share))
    read = [
        _read_sample(
            store,
            index,
            rules,
            np.random.default_rng([*rules.seed, step, sample]),
            draws=draws if sample >= first_forced else None,
        )
        for sample in range(rules.first_sample, rules.first_sample + rules.batch_size)
    ]
    cases, images, labels = zip(*read, strict=True)
    return {"image": np.stack(images), "label": np.stack(labels), "step": np.array(step), "cases": np.array(cases)}


@dataclass(frozen=True, kw_only=True)
class ForegroundDraws:
    """From what a foreground sample is drawn: a class by its rate, then a case that holds it by its share.

    The last class may be None, which stands for the cases without any.
    """

    classes: tuple[int | None, ...]
    rates: NDArray[np.float64]
    cases: tuple[tuple[str, ...], ...]
    shares: tuple[NDArray[np.float64], ...]

    def draw(self, rng: np.random.Generator) -> tuple[str, int | None]:
        """A case and the class in it to centre on."""
        k = rng.choice(len(self.rates), p=self.rates)
        return self.cases[k][rng.choice(len(self.shares[k]), p=self.shares[k])], self.classes[k]


def foreground_draws(index: ClassIndex, cases: Sequence[str], *, minimum_class_rate: float) -> ForegroundDraws:
    """How often each class of `cases` and each case is shown by a foreground sample.

    With a minimum rate of 0 that is nnU-Net's distribution: any case alike, then any class in it alike. A rate of 0.5
    gives every class at least half of what it had if all came equally often, at the expense of the frequent ones and
    of cases without foreground.
    """
    held: dict[int | None, dict[str, float]] = {}
    for case in cases:
        classes = [key for key in index.classes(case) if key != ANNOTATED] or [None]
        for key in classes:
            held.setdefault(key, {})[case] = 1 / len(classes)
    empty = held.pop(None, None)
    ordered = dict(sorted(held.items()))
    natural = np.array([sum(shares.values()) / len(cases) for shares in ordered.values()])
    rates = np.maximum(natural, minimum_class_rate / max(1, len(natural)))
    if empty is not None:
        ordered[None] = empty
        rates = np.append(rates, max(0.0, 1.0 - rates.sum()))
    return ForegroundDraws(
        classes=tuple(ordered),
        rates=rates / rates.sum(),
        cases=tuple(tuple(shares) for shares in ordered.values()),
        shares=tuple(np.array([*shares.values()]) / sum(shares.values()) for shares in ordered.values()),
    )


@lru_cache(maxsize=2)
def _opened(rules: CropRules, changed_ns: int) -> tuple[ClassIndex, ForegroundDraws]:
    index = open_index(rules.store)
    return index, foreground_draws(index, rules.cases, minimum_class_rate=rules.minimum_class_rate)


def _read_sample(
    store: CaseStore,
    index: ClassIndex,
    rules: CropRules,
    rng: np.random.Generator,
    *,
    draws: ForegroundDraws | None,
) -> tuple[str, NDArray[np.float32], NDArray[np.int16]]:
    name, key = draws.draw(rng) if draws else (rules.cases[rng.integers(len(rules.cases))], None)
    flat = len(rules.patch_size) == 2
    crop = (1, *rules.crop_size) if flat else rules.crop_size
    patch = (1, *rules.patch_size) if flat else rules.patch_size
    centre = _centre(index, name, key, rng)
    start = _crop_start(index.cases[name].shape, crop, patch, centre, rng)
    case = store.open(name)
    box = [[low, low + size] for low, size in zip(start, crop, strict=True)]
    image = crop_and_pad_nd(case.image, box, 0)
    labels = [case.label] if rules.stage is None else [case.label, StageStore(rules.stage).open(name)]
    label = np.stack([crop_and_pad_nd(array, box, -1) for array in labels])
    return (name, image[:, 0], label[:, 0]) if flat else (name, image, label)


def _centre(index: ClassIndex, case: str, key: int | None, rng: np.random.Generator) -> NDArray[Any] | None:
    """Voxel to centre the crop on: a random one of class `key`, or None for a crop from anywhere.

    With an ignore label those too are centred on a random annotated voxel, or they would often show none.
    """
    if key is None and ANNOTATED in index.classes(case):
        key = ANNOTATED
    if key is None:
        return None
    locations = index.locations(case, key)
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
