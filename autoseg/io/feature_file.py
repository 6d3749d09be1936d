"""features.safetensors of a fold: what the features of its training images are like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autoseg.core.errors import DataError, refuse_file
from autoseg.io.weights import load_weights, save_weights

FEATURES = "features.safetensors"
PARTS = ("mean", "scale", "covariance", "unseen")
LARGEST = 1e6  # logarithms of standard deviations, and distances in their spreads, are far below
AGAIN = "delete it, then run autoseg_train again (or get the model again)"


def write_features(path: Path, arrays: dict[str, np.ndarray], *, facts: dict[str, Any]) -> None:
    """Write the `PARTS` of what is familiar as float32, with facts about them; whole or not at all."""
    import torch

    save_weights(
        path,
        {name: torch.from_numpy(np.ascontiguousarray(arrays[name], dtype=np.float32)) for name in PARTS},
        facts=facts,
    )


def read_features(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The `PARTS` in float64, F features each, and the facts.

    Raises:
        DataError: the file is damaged, or holds what cannot be: other shapes, infinite or no numbers, scales that are
            not positive, a covariance that is none, no unseen image.
    """
    import torch

    tensors, facts = load_weights(path, todo=AGAIN)
    if sorted(tensors) != sorted(PARTS) or any(not t.is_floating_point() for t in tensors.values()):
        refuse_file(path, f"does not hold {', '.join(PARTS)} as floating point numbers", AGAIN)
    arrays = {name: tensor.to(torch.float64).numpy() for name, tensor in tensors.items()}
    size = arrays["mean"].shape[0] if arrays["mean"].ndim == 1 else 0
    shapes = {"mean": (size,), "scale": (size,), "covariance": (size, size)}
    if not size or any(arrays[name].shape != shape for name, shape in shapes.items()) or arrays["unseen"].ndim != 1:
        refuse_file(path, "holds arrays whose shapes do not fit each other", AGAIN)
    if not all((np.abs(array) < LARGEST).all() for array in arrays.values()):
        refuse_file(path, "holds enormous or infinite values, or what is no number", AGAIN)
    positive = (arrays["scale"], arrays["unseen"])
    if not arrays["unseen"].size or not all((array > 1 / LARGEST).all() for array in positive):
        refuse_file(path, "holds scales or distances that are not positive", AGAIN)
    covariance = arrays["covariance"]
    try:
        np.linalg.cholesky(covariance)
        sound = np.allclose(covariance, covariance.T)
    except np.linalg.LinAlgError:
        sound = False
    if not sound:
        refuse_file(path, "holds a covariance that is none", AGAIN)
    return arrays, facts


def made_from(path: Path) -> str | None:
    """Hash of the weights whose features the file holds; None where it is missing or damaged."""
    try:
        return str(read_features(path)[1].get("made_from"))
    except DataError:
        return None
