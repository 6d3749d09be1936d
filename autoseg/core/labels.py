"""The one place that knows what a label means: names, values in files and inside, regions, ignore, sides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """Labels of a data set, as dataset.json declares them.

    In files a label has any integer value, the ignore label the largest. Inside, values are 0 (background), 1, 2, ...
    in ascending order of the file values, and the ignore label comes last. A network has one output per value (softmax)
    or, with regions, one per region (sigmoid).
    """

    declared: dict[str, int | tuple[int, ...]]
    regions_class_order: tuple[int, ...] = ()

    @cached_property
    def ignore_value(self) -> int | None:
        """File value of the ignore label, None without one."""
        value = self.declared.get("ignore")
        return value if isinstance(value, int) else None

    @cached_property
    def foreground(self) -> dict[str, tuple[int, ...]]:
        """File values per name, in the order of dataset.json, without background and ignore."""
        as_tuples = {n: (v,) if isinstance(v, int) else tuple(v) for n, v in self.declared.items()}
        return {n: v for n, v in as_tuples.items() if n not in ("background", "ignore")}

    @cached_property
    def values(self) -> tuple[int, ...]:
        """File values with a meaning, ascending, background first; the position is the value inside."""
        return tuple(sorted({0, *(value for members in self.foreground.values() for value in members)}))

    def means_the_same(self, other: LabelScheme) -> bool:
        """Whether labels, their values and the order of a network's outputs are the same."""
        return self == other and [*self.outputs] == [*other.outputs]

    @property
    def has_regions(self) -> bool:
        """Whether any name stands for several values, so that outputs may overlap."""
        return any(len(members) > 1 for members in self.foreground.values())

    @property
    def n_outputs(self) -> int:
        """Channels that a network for these labels puts out."""
        return len(self.foreground) if self.has_regions else len(self.values)

    @property
    def outputs(self) -> dict[str, int]:
        """Channel of each name in the network's output, in the order of the channels."""
        if self.has_regions:
            return {name: i for i, name in enumerate(self.foreground)}
        inside = zip(self.foreground, self.regions_inside, strict=True)
        ordered = sorted((members[0], name) for name, members in inside)
        return {"background": 0, **{name: channel for channel, name in ordered}}

    def inside_pairs(self, pairs: Iterable[tuple[str, str]]) -> tuple[tuple[int, int], ...]:
        """Values inside of pairs of names that stand for one value each."""
        return tuple(
            (self.values.index(self.foreground[a][0]), self.values.index(self.foreground[b][0])) for a, b in pairs
        )

    @property
    def ignore_inside(self) -> int | None:
        """Value of the ignore label inside the pipeline."""
        return None if self.ignore_value is None else len(self.values)

    @property
    def regions_inside(self) -> tuple[tuple[int, ...], ...]:
        """Per region: its values inside the pipeline."""
        return tuple(tuple(self.values.index(v) for v in members) for members in self.foreground.values())

    @property
    def output_dtype(self) -> np.dtype:
        """Smallest unsigned type that holds every file value."""
        return np.min_scalar_type(max((*self.values, *self.regions_class_order)))

    @property
    def names_of_values(self) -> dict[int, str]:
        """Names of the values that a segmentation holds; a region's is that of the value painted for it."""
        if self.has_regions:
            return dict(zip(self.regions_class_order, self.foreground, strict=True))
        return {members[0]: name for name, members in self.foreground.items()}

    def encode(self, file_labels: NDArray) -> NDArray[np.int16]:
        """File values -> values inside. All values must be declared (see `undeclared`)."""
        known = [*self.values] if self.ignore_value is None else [*self.values, self.ignore_value]
        return np.searchsorted(known, file_labels).astype(np.int16)

    def undeclared(self, values: NDArray) -> list[int]:
        """Those of `values` (distinct file values) that dataset.json does not declare."""
        known = {*self.values, self.ignore_value}
        return [int(value) for value in values if int(value) not in known]

    def decode(self, inside: NDArray) -> NDArray:
        """Values inside (0 .. n-1, no ignore) -> file values, in `output_dtype`."""
        decoded: NDArray = np.array(self.values, dtype=self.output_dtype)[inside]
        return decoded

    def volumes_ml(self, file_labels: NDArray, *, voxel_ml: float) -> dict[str, float]:
        """Millilitres of each label or region in a segmentation (Z, Y, X) of file values."""
        counts = np.zeros(max((*self.values, *self.regions_class_order)) + 1, dtype=np.int64)
        for plane in file_labels:  # one by one: bincount takes 8 bytes per voxel
            counts += np.bincount(plane.ravel(), minlength=len(counts))[: len(counts)]  # no ignored voxels
        return {name: round(float(counts[list(v)].sum()) * voxel_ml, 4) for name, v in self.foreground.items()}

    def mask(self, file_labels: NDArray, name: str) -> NDArray[np.bool_]:
        """Boolean mask of one name (label or region) in an array of file values."""
        members = self.foreground[name]
        mask: NDArray[np.bool_] = file_labels == members[0] if len(members) == 1 else np.isin(file_labels, members)
        return mask


SIDES = {"left": "right", "l": "r", "lt": "rt", "lh": "rh"}
SIDES |= {right: left for left, right in SIDES.items()}


def left_right_pairs(names: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Find by name which labels are each other's mirror image.

    Returns:
        (pairs, lonely): pairs (left name, right name), and names that tell a side but have no single partner.
    """
    by_words: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        by_words[_words(name)].append(name)
    pairs, lonely = [], []
    for words, same in by_words.items():
        sides = SIDES if any(word in SIDES for word in words) else _numbered_sides(words)
        own = {sides[word][0] for word in words if word in sides}
        partners = by_words.get(tuple(sorted(sides.get(word, word) for word in words)), [])
        if len(own) == len(same) == len(partners) == 1:
            if own == {"r"}:  # the partner's side: these are the left ones
                pairs.append((same[0], partners[0]))
        elif own and sides is SIDES:
            lonely += same
    return pairs, lonely


def _words(name: str) -> tuple[str, ...]:
    """Words of a name, sorted: "KidneyLeft", "left_kidney" and "leftKidney" are the same."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = re.findall(r"[^\W_]+", spaced.lower())
    return tuple(sorted(" ".join(re.sub(r"^(left|right)(?=.)", r"\1 ", word) for word in words).split()))


def _numbered_sides(words: tuple[str, ...]) -> dict[str, str]:
    # l1 is a side where there is an r1 too (ribs), else the first lumbar vertebra
    return {word: "lr"[word[0] == "l"] + word[1:] for word in words if re.fullmatch(r"[lr][0-9]+", word)}
