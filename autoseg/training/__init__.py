"""CaseStore, Configuration, Recipe -> Fold (weights + log)."""

from __future__ import annotations

from autoseg.training.fold import train_fold
from autoseg.training.guards import collapse
from autoseg.training.job import FoldJob, check_fold
from autoseg.training.log import read_log
from autoseg.training.pretrained import pretrained_file
from autoseg.training.probe import StepJob, measure_step

__all__ = ["FoldJob", "StepJob", "check_fold", "collapse", "measure_step", "pretrained_file", "read_log", "train_fold"]
