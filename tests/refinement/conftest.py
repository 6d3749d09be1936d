"""Label volumes of a few boxes, and files of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme

Boxes = dict[int, list[tuple[slice, slice, slice]]]


@pytest.fixture
def scheme() -> LabelScheme:
    """Two labels whose order in dataset.json is not that of their values."""
    return LabelScheme(declared={"background": 0, "second": 7, "first": 3})


@pytest.fixture
def blobs() -> Callable[..., NDArray[np.uint8]]:
    """blobs(shape, (value, box), ...) with box = (z0, z1, y0, y1, x0, x1)."""

    def make(shape, *boxes):
        volume = np.zeros(shape, np.uint8)
        for value, (z0, z1, y0, y1, x0, x1) in boxes:
            volume[z0:z1, y0:y1, x0:x1] = value
        return volume

    return make


@pytest.fixture
def write() -> Callable[..., Path]:
    """Writes an array (Z, Y, X) with uneven spacing, turned to another orientation on demand."""

    def write(path: Path, array, orientation: str = "") -> Path:
        image = sitk.GetImageFromArray(np.asarray(array))
        image.SetSpacing((0.7, 0.9, 2.5))
        image.SetOrigin((-11.0, 23.0, 5.5))
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.DICOMOrient(image, orientation) if orientation else image, str(path))
        return path

    return write
