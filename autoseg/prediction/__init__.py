"""Folds, images -> Segmentations."""

from __future__ import annotations

from autoseg.prediction.ensemble import Ensemble, load_ensemble
from autoseg.prediction.files import PredictionRecord, asked_cases, find_cases, predict_case
from autoseg.prediction.image import predict_image

__all__ = [
    "Ensemble",
    "PredictionRecord",
    "asked_cases",
    "find_cases",
    "load_ensemble",
    "predict_case",
    "predict_image",
]
