"""Which programs are at work: what a result has to be told with to be made again."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from autoseg import __version__

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "batchgenerators", "safetensors")


@cache
def versions_here() -> dict[str, str]:
    """Versions of autoseg, Python, the packages that numbers depend on, and the operating system."""
    found = {"autoseg": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a machine that only trains or only predicts may do without some
            continue
    return {**found, "system": platform.platform()}
