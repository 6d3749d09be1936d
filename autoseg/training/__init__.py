"""CaseStore, Configuration, Recipe -> Fold (weights + log)."""

from __future__ import annotations

from autoseg.training.fold import FoldJob, check_fold, read_log, train_fold

__all__ = ["FoldJob", "check_fold", "read_log", "train_fold"]
