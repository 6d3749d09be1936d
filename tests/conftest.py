"""What every test may ask for: the real data (when it is there) and one thread per process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets: $AUTOSEG_TEST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("AUTOSEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set AUTOSEG_TEST_DATA to run this test")
    return folder
