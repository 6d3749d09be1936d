"""The whole flow; the only place, with aftercare, where stages meet.

plan_and_preprocess   Dataset -> Fingerprint -> Plan -> CaseStore
train                 CaseStore -> folds, each validated -> pooled cross-validation
predict               folds, images -> Segmentations
evaluate              Segmentations, truths -> Scores
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.pipeline.crossvalidating import Together, TrainOptions, train
    from autoseg.pipeline.explaining import explain
    from autoseg.pipeline.outcome import CaseCounter, Outcome, Progress, few_workers, pool_for, silent
    from autoseg.pipeline.plan_file import Options, make_plan, read_plan
    from autoseg.pipeline.predicting import PredictOptions, predict
    from autoseg.pipeline.preparing import current_splits, extract_fingerprint, plan_and_preprocess, preprocess
    from autoseg.pipeline.scoring import evaluate, show_predictions
    from autoseg.pipeline.sharing import (
        OpenedModel,
        Words,
        chosen_strategy,
        export_model,
        import_model,
        opened_model,
        strategy_models,
    )

__all__ = [
    "CaseCounter",
    "OpenedModel",
    "Options",
    "Outcome",
    "PredictOptions",
    "Progress",
    "Together",
    "TrainOptions",
    "Words",
    "chosen_strategy",
    "current_splits",
    "evaluate",
    "explain",
    "export_model",
    "extract_fingerprint",
    "few_workers",
    "import_model",
    "make_plan",
    "opened_model",
    "plan_and_preprocess",
    "pool_for",
    "predict",
    "preprocess",
    "read_plan",
    "show_predictions",
    "silent",
    "strategy_models",
    "train",
]

# Imported on first use: planning needs no torch, whose import takes ten times as long as the planning itself.
FILES = {
    "crossvalidating": ("Together", "TrainOptions", "train"),
    "explaining": ("explain",),
    "outcome": ("CaseCounter", "Outcome", "Progress", "few_workers", "pool_for", "silent"),
    "plan_file": ("Options", "make_plan", "read_plan"),
    "predicting": ("PredictOptions", "predict"),
    "preparing": ("current_splits", "extract_fingerprint", "plan_and_preprocess", "preprocess"),
    "scoring": ("evaluate", "show_predictions"),
    "sharing": (
        "OpenedModel",
        "Words",
        "chosen_strategy",
        "export_model",
        "import_model",
        "opened_model",
        "strategy_models",
    ),
}


def __getattr__(name: str) -> Any:
    for file, names in FILES.items():
        if name in names:
            return getattr(import_module(f"autoseg.pipeline.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
