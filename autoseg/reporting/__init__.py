"""What a person looks at: overlay pictures, training curves, and one page with everything."""

from __future__ import annotations

from autoseg.reporting.curve import curve_picture
from autoseg.reporting.overlay import overlay_picture
from autoseg.reporting.prediction_page import PredictedCase, prediction_page
from autoseg.reporting.report import Contents, report_page
from autoseg.reporting.viewer import case_viewer

__all__ = [
    "Contents",
    "PredictedCase",
    "case_viewer",
    "curve_picture",
    "overlay_picture",
    "prediction_page",
    "report_page",
]
