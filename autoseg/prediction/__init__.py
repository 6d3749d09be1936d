"""Folds, images -> Segmentations."""

from __future__ import annotations

from autoseg.prediction.ensemble import Ensemble, load_ensemble, load_members
from autoseg.prediction.features import has_features, image_features
from autoseg.prediction.files import (
    PROBABILITIES,
    PredictionRecord,
    Target,
    asked_cases,
    is_as_written,
    predict_cases,
    recorded_cases,
)
from autoseg.prediction.image import Settings, predict_image
from autoseg.prediction.loaded import LoadedScan, prepare_scan
from autoseg.prediction.overlap import overlapped
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
