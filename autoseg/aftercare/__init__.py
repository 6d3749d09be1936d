"""What follows a training: choose, postprocess, pack, report, tell the state, examine. Stages meet here too."""

from __future__ import annotations

from autoseg.aftercare.choice import find_best_configuration
from autoseg.aftercare.delivery import ensemble, postprocess, submit
from autoseg.aftercare.examination import Finding, examine_dataset, examine_machine
from autoseg.aftercare.overview import report
from autoseg.aftercare.state import ConfigurationStatus, FoldStatus, status

__all__ = [
    "ConfigurationStatus",
    "Finding",
    "FoldStatus",
    "ensemble",
    "examine_dataset",
    "examine_machine",
    "find_best_configuration",
    "postprocess",
    "report",
    "status",
    "submit",
]
