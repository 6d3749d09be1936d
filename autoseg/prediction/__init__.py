"""Folds, images -> Segmentations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.prediction.ensemble import Ensemble, load_ensemble, load_members
    from autoseg.prediction.features import has_features, image_features
    from autoseg.prediction.files import Target, predict_cases
    from autoseg.prediction.image import Settings, predict_image
    from autoseg.prediction.loaded import LoadedScan, prepare_scan
    from autoseg.prediction.overlap import overlapped
    from autoseg.prediction.record import PROBABILITIES, PredictionRecord, asked_cases, is_as_written, recorded_cases
    from autoseg.prediction.scans import DICOM_SEG, Scan, find_scans
    from autoseg.prediction.stored import StoredCase, ensemble_stored
    from autoseg.prediction.trust import segment_with_trust

__all__ = [
    "DICOM_SEG",
    "PROBABILITIES",
    "Ensemble",
    "LoadedScan",
    "PredictionRecord",
    "Scan",
    "Settings",
    "StoredCase",
    "Target",
    "asked_cases",
    "ensemble_stored",
    "find_scans",
    "has_features",
    "image_features",
    "is_as_written",
    "load_ensemble",
    "load_members",
    "overlapped",
    "predict_cases",
    "predict_image",
    "prepare_scan",
    "recorded_cases",
    "segment_with_trust",
]

# Imported on first use: who only reads what a folder of predictions holds needs no torch.
FILES = {
    "ensemble": ("Ensemble", "load_ensemble", "load_members"),
    "features": ("has_features", "image_features"),
    "files": ("Target", "predict_cases"),
    "image": ("Settings", "predict_image"),
    "loaded": ("LoadedScan", "prepare_scan"),
    "overlap": ("overlapped",),
    "record": ("PROBABILITIES", "PredictionRecord", "asked_cases", "is_as_written", "recorded_cases"),
    "scans": ("DICOM_SEG", "Scan", "find_scans"),
    "stored": ("StoredCase", "ensemble_stored"),
    "trust": ("segment_with_trust",),
}


def __getattr__(name: str) -> Any:
    for file, names in FILES.items():
        if name in names:
            return getattr(import_module(f"autoseg.prediction.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
