"""What a person looks at: overlay pictures, training curves, and one page with everything."""

from __future__ import annotations

from autoseg.reporting.curve import curve_picture
from autoseg.reporting.overlay import overlay_picture
from autoseg.reporting.report import report_page

__all__ = ["curve_picture", "overlay_picture", "report_page"]
