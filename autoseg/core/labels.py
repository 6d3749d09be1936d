"""The one place that knows what a label means: names, values in files, values inside, regions, ignore, sides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class LabelScheme:
    """Labels of a data set, as dataset.json declares them.

    In files a label has any integer value. Inside, values are 0 (background), 1, 2, ... in ascending order of the file
    values, and the ignore label comes last. A network has one output per value (softmax) or, with regions, one per
    region (sigmoid).
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

    @property
    def has_regions(self) -> bool:
        """Whether any name stands for several values, so that outputs may overlap."""
        return any(len(members) > 1 for members in self.foreground.values())

    @property
    def n_outputs(self) -> int:
        """Channels that a network for these labels puts out."""
        return len(self.foreground) if self.has_regions else len(self.values)

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

    def encode(self, file_labels: NDArray) -> NDArray[np.int16]:
        """File values -> values inside. All values must be declared (see `undeclared`)."""
        known = [*self.values] if self.ignore_value is None else [*self.values, self.ignore_value]
        inside = list(range(len(known)))
        order = np.argsort(known)
        positions = np.searchsorted(np.array(known)[order], file_labels)
        return np.array(inside, dtype=np.int16)[order][positions]

    def undeclared(self, values: NDArray) -> list[int]:
        """Those of `values` (distinct file values) that dataset.json does not declare."""
        known = {*self.values, self.ignore_value}
        return [int(value) for value in values if int(value) not in known]

    def decode(self, inside: NDArray) -> NDArray:
        """Values inside (0 .. n-1, no ignore) -> file values, in `output_dtype`."""
        return np.array(self.values, dtype=self.output_dtype)[inside]

    def mask(self, file_labels: NDArray, name: str) -> NDArray[np.bool_]:
        """Boolean mask of one name (label or region) in an array of file values."""
        members = self.foreground[name]
        return file_labels == members[0] if len(members) == 1 else np.isin(file_labels, members)


def left_right_pairs(names: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Find by name which labels are each other's mirror image.

    Returns:
        (pairs, lonely): pairs (left name, right name), and names that tell a side but have no partner.
    """
    sides = {"left": "right", "l": "r", "lt": "rt", "lh": "rh"}
    sides |= {right: left for left, right in sides.items()}
    split = {name: re.split(r"([^a-zA-Z]+|(?<=[a-z])(?=[A-Z]))", name) for name in names}
    by_words = {tuple(sorted(word.lower() for word in words if word.isalnum())): name for name, words in split.items()}
    pairs, lonely = [], []
    for words, name in by_words.items():
        own_sides = [word for word in words if word in sides]
        if not own_sides:
            continue
        partner = by_words.get(tuple(sorted(sides.get(word, word) for word in words)))
        if partner is None:
            lonely.append(name)
        elif own_sides[0].startswith("l"):
            pairs.append((name, partner))
    return pairs, lonely
