"""Folds, images -> Segmentations."""

from __future__ import annotations

from autoseg.prediction.ensemble import Ensemble, load_ensemble, load_members
from autoseg.prediction.files import PredictionRecord, Target, asked_cases, predict_cases
from autoseg.prediction.image import Settings, predict_image
from autoseg.prediction.loaded import LoadedScan, prepare_scan, segment_scan
from autoseg.prediction.overlap import overlapped
from autoseg.prediction.scans import DICOM_SEG, Scan, find_scans

__all__ = [
    "DICOM_SEG",
    "Ensemble",
    "LoadedScan",
    "PredictionRecord",
    "Scan",
    "Settings",
    "Target",
    "asked_cases",
    "find_scans",
    "load_ensemble",
    "load_members",
    "overlapped",
    "predict_cases",
    "predict_image",
    "prepare_scan",
    "segment_scan",
]
