from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from autoseg.core.geometry import Geometry
from autoseg.io.images import write_labels


def test_the_command_scores_a_folder_without_importing_torch(tmp_path: Path) -> None:
    """PyTorch takes most of the start of a command, and scoring needs nothing of it."""
    labels = {"background": 0, "a": 1}
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"})
    )
    for folder in ("truth", "predicted"):
        (tmp_path / folder).mkdir()
        path, like = tmp_path / folder / "one.nii.gz", Geometry(shape=(2, 3, 4), spacing_mm=(1.0, 1.0, 1.0))
        write_labels(path, np.ones((2, 3, 4), np.uint8), like=like, names={1: "a"})
    code = "import sys; from autoseg.cli.evaluate import main; sys.exit(main() or 10 * ('torch' in sys.modules))"
    command = [sys.executable, "-c", code, "-p", str(tmp_path / "predicted"), "-g", str(tmp_path / "truth")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "mean Dice of 1 label: 1.0000 (1 case)" in found.stdout
