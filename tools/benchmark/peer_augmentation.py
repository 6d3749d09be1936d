"""What the peer's augmentation draws, as probabilities and quantiles; run in its environment.

Usage: peer_augmentation.py RESULT.json (tests/training/peer_augmentation.json, with which a test compares our draws)
"""

import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial import spatial
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

N, CHANNELS = 20_000, 2
PATCH = (40, 56, 40)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LIMIT = math.radians(30)


def main(result):
    """Draw and summarise."""
    torch.manual_seed(0)
    np.random.seed(0)
    transforms = nnUNetTrainer.get_training_transforms(
        PATCH, (-LIMIT, LIMIT), None, (0, 1, 2), False, use_mask_for_norm=None
    ).transforms
    matrices = []
    spatial.create_affine_matrix_3d = lambda angles, scales: matrices.append((angles, scales))
    image = torch.zeros(CHANNELS, 4, 4, 4)
    values = defaultdict(list)  # name -> drawn values; those of a channel or axis that was left alone are missing
    for _ in range(N):
        matrices.clear()
        transforms[0].get_parameters(image=image)
        for angles, scales in matrices:
            if any(angles):
                values["rotation_rad"] += map(float, angles)
            if scales[0] != 1:
                values["scale"].append(float(scales[0]))
        gammas = iter(("inverted_gamma", "gamma"))
        for random in transforms[1:8]:
            name = type(random.transform).__name__
            key = next(gammas) if name == "GammaTransform" else name
            if not random.get_parameters(image=image)["apply_transform"]:
                continue
            drawn = random.transform.get_parameters(image=image)
            if name == "GaussianNoiseTransform":
                values["noise_sigma"] += [float(drawn["sigmas"])] * CHANNELS
            elif name == "GaussianBlurTransform":
                values["blur_sigma"] += [float(sigma) for sigmas in drawn["sigmas"] for sigma in sigmas]
            elif name == "SimulateLowResolutionTransform":
                values["coarse_zoom"] += [float(scales[0]) for scales in drawn["scales"]]
            elif name == "GammaTransform":
                values[key] += drawn["gamma"].tolist()
            else:
                values[{"MultiplicativeBrightnessTransform": "brightness"}.get(name, "contrast")] += drawn[
                    "multipliers"
                ].tolist()
        values["mirrored_axis"] += transforms[8].get_parameters(image=image)["axes"]
    summary = {
        name: {"per_sample": len(drawn) / N, "quantiles": np.quantile(drawn, QUANTILES).round(5).tolist()}
        for name, drawn in sorted(values.items())
    }
    facts = {"program": "nnU-Net 2.8.1", "samples": N, "channels": CHANNELS, "quantiles": QUANTILES, "drawn": summary}
    Path(result).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
