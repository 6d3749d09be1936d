"""What is measured on one case, kept in a small file so that it is measured once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.core.dataset import Case
from autoseg.core.errors import DataError, Problem
from autoseg.core.files import content_key, whole_file
from autoseg.core.labels import LabelScheme
from autoseg.fingerprinting.duplicates import signature
from autoseg.io.images import read_case, with_data_files
from autoseg.ops.crop import bounding_box, crop, nonzero_mask

MEASURE_VERSION = 5


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """One case to read, check and measure; at most `max_samples` foreground voxels are kept per channel."""

    case: Case
    labels: LabelScheme
    max_samples: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class CaseMeasure:
    """Facts of one case; shapes and spacings are canonical (z, y, x).

    `samples` holds foreground intensities, float32 (C, n), of `n_foreground` voxels as many as were asked
    for; the ignore label is no foreground. `labels` maps a name to (volume in ml, millimetres from the image
    centre towards the patient's left). `ranges` are the lowest and highest intensity of each channel of the
    whole image; `orientation` is how the image is stored, `tilt_deg` how far its axes are from the patient's;
    `signature` tells images that are nearly the same (see duplicates.py).
    """

    key: str
    spacing_mm: tuple[float, float, float]
    shape_after_crop: tuple[int, int, int]
    relative_size_after_crop: float
    labels: dict[str, tuple[float, float]]
    warnings: tuple[Problem, ...]
    n_foreground: int
    ranges: tuple[tuple[float, float], ...]
    orientation: str
    tilt_deg: float
    samples: NDArray[np.float32]
    signature: NDArray[np.float32]


def measure_case(job: MeasureJob) -> bool:
    """Check and measure one case unless that was done before; returns whether it had to be.

    Raises:
        DataError: all defects of the case.
    """
    key = content_key(MEASURE_VERSION, job.labels.declared, files=with_data_files(job.case.files))
    known = _load(job.path)
    # max_samples changes with the number of cases, which matters to cases with more voxels only
    if known and (known.key, known.samples.shape[1]) == (key, min(known.n_foreground, job.max_samples)):
        return False
    loaded = read_case(job.case, labels=job.labels)
    assert loaded.label is not None
    geometry = loaded.geometry.canonical
    box = bounding_box(nonzero_mask(loaded.image))
    label, image = crop(loaded.label, box), crop(loaded.image, box)
    foreground = (label > 0) & (label < len(job.labels.values))
    measure = CaseMeasure(
        key=key,
        spacing_mm=geometry.spacing_mm,
        shape_after_crop=label.shape,
        relative_size_after_crop=label.size / loaded.label.size,
        labels=_label_facts(loaded.label, job.labels, geometry.spacing_mm),
        warnings=loaded.warnings,
        n_foreground=int(np.count_nonzero(foreground)),
        ranges=tuple((float(channel.min()), float(channel.max())) for channel in loaded.image),
        orientation=loaded.geometry.orientation.code,
        tilt_deg=round(loaded.geometry.tilt_deg, 3),
        samples=_sample(image, foreground, job.max_samples),
        signature=signature(loaded.image),
    )
    _save(job.path, measure)
    return True


def load_measure(path: Path) -> CaseMeasure:
    """What `measure_case` kept. Raises DataError when the file is missing or damaged."""
    measure = _load(path)
    if measure is None:
        todo = "delete it and run again"
        raise DataError(Problem(case=path.stem, file=str(path), found="cannot be read", next=todo))
    return measure


def _sample(image: NDArray[np.float32], foreground: NDArray[np.bool_], limit: int) -> NDArray[np.float32]:
    """Foreground intensities (C, n); all of them, or `limit` drawn with a fixed seed."""
    values = image[:, foreground]
    if values.shape[1] > limit:
        chosen = np.random.default_rng(1234).choice(values.shape[1], limit, replace=False, shuffle=False)
        values = values[:, chosen]
    return values


def _label_facts(
    label: NDArray[np.int16], scheme: LabelScheme, spacing_mm: tuple[float, float, float]
) -> dict[str, tuple[float, float]]:
    n_values = int(label.max()) + 1
    columns = np.stack(
        [np.bincount(label[..., x].ravel(), minlength=n_values)[:n_values] for x in range(label.shape[2])]
    )  # voxels per (x, value)
    offset_mm = (np.arange(label.shape[2]) - (label.shape[2] - 1) / 2) * spacing_mm[2]
    facts = {}
    for name, members in zip(scheme.foreground, scheme.regions_inside, strict=True):
        per_column = columns[:, [m for m in members if m < n_values]].sum(axis=1)
        if voxels := int(per_column.sum()):
            volume_ml = voxels * float(np.prod(spacing_mm)) / 1000
            facts[name] = (volume_ml, float((per_column * offset_mm).sum() / voxels))
    return facts


def _save(path: Path, measure: CaseMeasure) -> None:
    facts = {
        "key": measure.key,
        "spacing_mm": measure.spacing_mm,
        "shape_after_crop": measure.shape_after_crop,
        "relative_size_after_crop": measure.relative_size_after_crop,
        "labels": measure.labels,
        "warnings": [vars(warning) for warning in measure.warnings],
        "n_foreground": measure.n_foreground,
        "ranges": measure.ranges,
        "orientation": measure.orientation,
        "tilt_deg": measure.tilt_deg,
    }
    text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, facts=text, samples=measure.samples, signature=measure.signature)


def _load(path: Path) -> CaseMeasure | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            facts, samples, mark = json.loads(stored["facts"].tobytes()), stored["samples"], stored["signature"]
        return CaseMeasure(
            key=facts["key"],
            spacing_mm=tuple(facts["spacing_mm"]),
            shape_after_crop=tuple(facts["shape_after_crop"]),
            relative_size_after_crop=facts["relative_size_after_crop"],
            labels={name: tuple(values) for name, values in facts["labels"].items()},
            warnings=tuple(Problem(**warning) for warning in facts["warnings"]),
            n_foreground=facts["n_foreground"],
            ranges=tuple((low, high) for low, high in facts["ranges"]),
            orientation=facts["orientation"],
            tilt_deg=facts["tilt_deg"],
            samples=samples,
            signature=mark,
        )
    except Exception:  # missing, damaged in whatever way, or of another version: it is measured again
        return None
