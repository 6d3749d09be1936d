"""How far the preprocessed volumes of both programs lie apart, case by case, on the same grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from autoseg.core.dataset import read_dataset
from autoseg.core.plan import Plan
from autoseg.io.case_store import CaseStore
from autoseg.io.images import read_case, read_geometry
from autoseg.ops.case_transform import prepare


def differences(raw: Path, own: Path, peer: Path) -> dict[str, dict[str, float]]:
    """Per configuration: the largest differences over all cases.

    The peer keeps the stored orientation, so its arrays are brought to the canonical one first. `image` compares what
    lies on disk; `image_same_statistics` prepares each case anew with the peer's data set statistics (it draws its
    foreground samples at random, which moves them a little). Both are given in units of the normalised intensities.
    `labels` is the share of voxels with another label.
    """
    dataset, plan = read_dataset(raw), Plan.read(own / "plans" / "default.json")
    theirs = json.loads((peer / "nnUNetPlans.json").read_text())
    statistics = theirs["foreground_intensity_properties_per_channel"]
    same = plan.with_changes(
        intensities=[_only(statistics[str(i)], plan.intensities[i]) for i in range(len(statistics))]
    )
    found = {}
    for name, configuration in plan.configurations.items():
        if configuration.inherits_from is not None:
            continue
        store = CaseStore(own / f"{plan.planner}__{name}")
        folder = peer / theirs["configurations"][name]["data_identifier"]
        worst = {"image": 0.0, "image_same_statistics": 0.0, "labels": 0.0}
        for case in dataset.cases.values():
            orientation = read_geometry(case.images[0]).orientation
            image, label = (
                _oriented(folder / f"{case.id}{end}.b2nd", orientation, theirs, plan) for end in ("", "_seg")
            )
            stored = store.open(case.id)
            loaded = read_case(case, labels=plan.scheme)
            spacing = loaded.geometry.canonical.spacing_mm
            again = prepare(loaded.image, None, spacing_mm=spacing, plan=same, configuration=configuration)
            worst["image"] = max(worst["image"], float(np.abs(stored.image[:] - image).max()))
            worst["image_same_statistics"] = max(
                worst["image_same_statistics"], float(np.abs(again.image - image).max())
            )
            worst["labels"] = max(worst["labels"], float((stored.label[:] != label[0]).mean()))
        found[name] = worst
    return found


def _only(statistics: dict[str, float], like: Any) -> dict[str, float]:
    return {key: statistics[key] for key in like.model_dump()}


def _oriented(path: Path, orientation: Any, theirs: dict[str, Any], plan: Plan) -> np.ndarray:
    """The peer's array (C, transposed axes of the stored orientation) -> (C, transposed axes of the canonical one)."""
    array = blosc2.open(str(path), mode="r")[:]
    stored = array.transpose(0, *(1 + axis for axis in theirs["transpose_backward"]))
    canonical = np.stack([orientation.apply(channel) for channel in stored])
    return canonical.transpose(0, *(1 + axis for axis in plan.transpose_forward))
