"""Image files in, label files and prediction.json out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.core.dataset import FILE_ENDINGS, Case, cases_in_folder, unsafe_id
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import read_json, write_json
from autoseg.core.plan import Plan
from autoseg.io.images import read_case, write_labels
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.image import predict_image

RECORD = "prediction.json"


def find_cases(source: Path, plan: Plan) -> tuple[list[Case], list[Problem]]:
    """The cases in a folder (CASE_0000.ext, ...), or the one case of a file (for models with one channel).

    Raises:
        UsageError: nothing is there, or a file was given for a model with several channels.
    """
    n_channels = len(plan.channel_names)
    if source.is_file():
        ending = next((e for e in FILE_ENDINGS if source.name.endswith(e)), None)
        if ending is None:
            raise UsageError(f"{source} is none of {', '.join(FILE_ENDINGS)}; convert it first")
        if n_channels > 1:
            raise UsageError(
                f"this model needs {n_channels} channels per case ({', '.join(plan.channel_names)}); give a folder"
            )
        case = source.name[: -len(ending)].removesuffix("_0000")
        if unsafe := unsafe_id(case):
            raise UsageError(f"{source.name}: {unsafe}; rename the file")
        return [Case(id=case, images=(source,))], []
    if not source.is_dir():
        raise UsageError(f"{source} does not exist; give a folder with images or one image with -i")
    endings = [plan.file_ending, *(e for e in FILE_ENDINGS if e != plan.file_ending)]
    ending = next((e for e in endings if any(p.name.endswith(e) for p in source.iterdir())), None)
    if ending is None:
        raise UsageError(f"{source} holds no image ({', '.join(FILE_ENDINGS)}); check the path")
    problems: list[Problem] = []
    found = cases_in_folder(source, ending=ending, n_channels=n_channels, problems=problems)
    broken = {problem.case for problem in problems}
    return [case for case in found.values() if case.id not in broken], problems


def predict_case(
    ensemble: Ensemble,
    case: Case,
    path: Path,
    *,
    step: float = 0.5,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Read a case, segment it, write the labels to `path` in the geometry of its first channel.

    Returns:
        {"volumes_ml": per label, "warnings": list of sentences}.

    Raises:
        DataError: all defects of the case.
    """
    loaded = read_case(Case(id=case.id, images=case.images), labels=None)
    if loaded.image.shape[0] != len(ensemble.plan.channel_names):
        found = f"has {loaded.image.shape[0]} channels where the model needs {len(ensemble.plan.channel_names)}"
        raise DataError(Problem(case=case.id, found=found, next="give all channels in the model's order"))
    geometry = loaded.geometry.canonical
    labels = predict_image(ensemble, loaded.image, spacing_mm=geometry.spacing_mm, step=step, progress=progress)
    write_labels(path, labels, like=case.images[0])
    scheme = ensemble.plan.scheme
    counts = np.zeros(max(scheme.values) + 1, dtype=np.int64)
    for plane in labels:  # one by one: bincount takes 8 bytes per voxel
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    ml = geometry.voxel_volume_ml
    volumes = {name: round(float(counts[list(v)].sum()) * ml, 4) for name, v in scheme.foreground.items()}
    return {"volumes_ml": volumes, "warnings": [f"{w.found}; {w.next}" for w in loaded.warnings]}


def asked_cases(folder: Path) -> set[str] | None:
    """Ids of the cases that a prediction folder was to hold, failed ones included; None without a prediction.json."""
    records = sorted([*folder.glob(RECORD), *folder.glob("prediction_part*of*.json")])
    if not records:
        return None
    values = [_read_record(path) for path in records]
    return {case for value in values for case in (*value["cases"], *(f["case"] for f in value["failures"])) if case}


def _read_record(path: Path) -> dict[str, Any]:
    value = read_json(path)
    kinds = {"cases": dict, "failures": list}
    if not isinstance(value, dict) or not all(isinstance(value.get(k), kind) for k, kind in kinds.items()):
        raise DataError(Problem(case="", file=str(path), found="is no record of predictions", next="move it away"))
    return value


class PredictionRecord:
    """prediction.json of an output folder, written anew after every case so that a kill loses nothing."""

    def __init__(self, folder: Path, *, part: tuple[int, int], facts: dict[str, Any]) -> None:
        number, n_parts = part
        self.path = folder / (RECORD if n_parts == 1 else f"prediction_part{number}of{n_parts}.json")
        known = _read_record(self.path)["cases"] if self.path.is_file() else {}
        self.value: dict[str, Any] = {**facts, "cases": known, "failures": []}

    def key_of(self, case: str) -> str | None:
        """What the stored prediction of a case was made from; None when there is none."""
        key: str | None = self.value["cases"].get(case, {}).get("key")
        return key

    def add(self, case: str, *, key: str, seconds: float, facts: dict[str, Any]) -> None:
        """Enter a finished case."""
        self.value["cases"][case] = {"key": key, "seconds": round(seconds, 3), **facts}
        write_json(self.path, self.value)

    def finish(self, problems: list[Problem]) -> list[Problem]:
        """Enter the failures; returns the warnings of all cases."""
        self.value["failures"] = [vars(problem) for problem in problems]
        failed = {problem.case for problem in problems}
        self.value["cases"] = {case: v for case, v in sorted(self.value["cases"].items()) if case not in failed}
        write_json(self.path, self.value)
        return [
            Problem(case=case, found=text, next="look at the result")
            for case, value in self.value["cases"].items()
            for text in value["warnings"]
        ]
