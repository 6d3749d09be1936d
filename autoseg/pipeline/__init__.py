"""The whole flow; the only place, with aftercare, where stages meet.

plan_and_preprocess   Dataset -> Fingerprint -> Plan -> CaseStore
train                 CaseStore -> folds, each validated -> pooled cross-validation
predict               folds, images -> Segmentations
evaluate              Segmentations, truths -> Scores
"""

from __future__ import annotations

from autoseg.pipeline.crossvalidating import TrainOptions, train
from autoseg.pipeline.outcome import CaseCounter, Outcome, Progress, few_workers, silent
from autoseg.pipeline.predicting import PredictOptions, predict
from autoseg.pipeline.preparing import (
    Options,
    extract_fingerprint,
    make_plan,
    plan_and_preprocess,
    preprocess,
    read_plan,
)
from autoseg.pipeline.scoring import evaluate, show_predictions

__all__ = [
    "CaseCounter",
    "Options",
    "Outcome",
    "PredictOptions",
    "Progress",
    "TrainOptions",
    "evaluate",
    "extract_fingerprint",
    "few_workers",
    "make_plan",
    "plan_and_preprocess",
    "predict",
    "preprocess",
    "read_plan",
    "show_predictions",
    "silent",
    "train",
]
