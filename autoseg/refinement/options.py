"""What may be done to a single label: which of its parts stay, and whether its holes are filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.core.strategy import Step
from autoseg.ops.components import component_sizes, large_of, largest_of
from autoseg.ops.crop import holes

# In millilitres: from a speck to an organ's lobe. Fixed numbers, so that no case tells what is tried on it.
SMALLEST_ML = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to treat a label; `least_ml` of 0 keeps every part."""

    largest: bool = False
    least_ml: float = 0.0
    filled: bool = False

    def steps(self, name: str) -> list[Step]:
        """The same as steps of a strategy."""
        steps = []
        if self.largest:
            steps.append(Step(action="keep_largest", labels=[name]))
        if self.least_ml:
            steps.append(Step(action="remove_smaller", labels=[name], than_ml=self.least_ml))
        if self.filled:
            steps.append(Step(action="fill_holes", labels=[name]))
        return steps


_PARTS = [Option(), Option(largest=True), *(Option(least_ml=ml) for ml in SMALLEST_ML)]
# The simplest first: of options with the same score the first is taken.
OPTIONS = (*_PARTS, *(Option(largest=o.largest, least_ml=o.least_ml, filled=True) for o in _PARTS))


def masks_of(mask: NDArray[np.bool_], background: NDArray[np.bool_], *, voxel_ml: float) -> Iterator[NDArray[np.bool_]]:
    """The mask (Z, Y, X) of a label after each of OPTIONS, in their order; `background` is where there is no label."""
    parts, sizes = component_sizes(mask)
    kept = []
    for option in _PARTS:
        if option.largest:
            kept.append(largest_of(parts, sizes))
        else:
            kept.append(large_of(parts, sizes, option.least_ml / voxel_ml) if option.least_ml else mask)
        yield kept[-1]
    for part in kept:
        yield part | (holes(part) & (background | (mask & ~part)))
