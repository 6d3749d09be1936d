"""features.safetensors: what is written is read; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.core.errors import DataError
from autoseg.io.feature_file import made_from, read_features, write_features
from autoseg.io.weights import save_weights


def arrays() -> dict[str, np.ndarray]:
    vectors = np.random.default_rng(0).normal(0, 1, (30, 4))
    return {
        "mean": vectors.mean(axis=0),
        "scale": vectors.std(axis=0),
        "covariance": np.cov(vectors.T),
        "unseen": np.array([1.0, 2.5, 2.0]),
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_features(tmp_path / "f.safetensors", arrays(), facts={"made_from": "abc"})
    found, facts = read_features(tmp_path / "f.safetensors")
    assert facts == {"made_from": "abc"}
    for name, array in arrays().items():
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-7)
    assert made_from(tmp_path / "f.safetensors") == "abc"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mean": None}, "does not hold"),
        ({"more": np.ones(3)}, "does not hold"),
        ({"mean": np.ones(4, dtype=np.int64)}, "does not hold"),
        ({"mean": np.ones(5)}, "shapes"),
        ({"mean": np.ones((4, 1))}, "shapes"),
        ({"mean": np.ones(0), "scale": np.ones(0), "covariance": np.ones((0, 0))}, "shapes"),
        ({"covariance": np.eye(3)}, "shapes"),
        ({"unseen": np.ones((2, 2))}, "shapes"),
        ({"mean": np.array([0, np.nan, 0, 0])}, "infinite"),
        ({"covariance": np.full((4, 4), np.inf)}, "infinite"),
        ({"scale": np.array([1.0, 0.0, 1.0, 1.0])}, "not positive"),
        ({"unseen": np.array([1.0, -1.0])}, "not positive"),
        ({"unseen": np.ones(0)}, "not positive"),
        ({"covariance": -np.eye(4)}, "covariance"),
        ({"covariance": np.eye(4) + np.triu(np.ones((4, 4)), 1)}, "covariance"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, change: dict[str, np.ndarray | None], match: str) -> None:
    whole = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    path = tmp_path / "f.safetensors"
    save_weights(path, {name: torch.from_numpy(array) for name, array in whole.items()}, facts={})
    with pytest.raises(DataError, match=match):
        read_features(path)
    assert made_from(path) is None


@pytest.mark.parametrize(("name", "value"), [("mean", 1e7), ("scale", 1e-9), ("unseen", 1e-9), ("covariance", 1e9)])
def test_numbers_that_no_image_has_are_refused(tmp_path: Path, name: str, value: float) -> None:
    changed = arrays()
    changed[name] = changed[name] * value
    write_features(tmp_path / "f.safetensors", changed, facts={})
    with pytest.raises(DataError):
        read_features(tmp_path / "f.safetensors")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    assert made_from(path) is None
    write_features(path, arrays(), facts={"made_from": "abc"})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="intact"):
        read_features(path)
    assert made_from(path) is None
