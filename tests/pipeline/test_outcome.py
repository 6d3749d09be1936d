"""How many processes a command takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core import workers
from autoseg.pipeline import few_workers


def test_large_label_volumes_get_few_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cpus", lambda: 16)
    monkeypatch.setattr(workers, "available_memory_gb", lambda: 10.0)
    small, large, broken = (tmp_path / f"{name}.nii.gz" for name in ("small", "large", "broken"))
    noise = np.random.default_rng(0).integers(0, 5, (60, 1000, 1000), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(noise[:2]), str(small))
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(large))
    broken.write_bytes(b"no image")
    assert few_workers(100, None) == few_workers(100, None, volumes=[small, tmp_path / "gone"]) == 8
    assert few_workers(100, None, volumes=[small, large]) == 3  # 60 million voxels take 2.5 GB
    assert few_workers(100, None, volumes=[broken]) == 8
    assert few_workers(7, None, volumes=[large]) == 0
    assert few_workers(100, 5, volumes=[large]) == 5
