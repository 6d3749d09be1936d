"""How many labels change when a model computes in bf16, on hardware that has none: every number is rounded to it.

Usage: bf16_agreement.py MODEL IMAGES REFERENCE
MODEL is what autoseg_predict -m takes; REFERENCE holds label files named like IMAGES without _0000, for example
nnU-Net's in float32. Weights, inputs and the answer of every layer are rounded to bf16, sums stay in float32, as in
hardware that multiplies in bf16. Prints voxels that differ from the reference, in float32 and rounded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from autoseg import Predictor


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16).to(tensor.dtype)


def emulate(predictor: Predictor) -> None:
    """Round what goes in and comes out of every layer."""

    def before(layer: Any, inputs: Any) -> Any:
        return tuple(rounded(value) for value in inputs)

    def after(layer: Any, inputs: Any, answer: torch.Tensor) -> torch.Tensor:
        return rounded(answer)

    for network in (network for member in predictor._members for network in member.networks):
        with torch.no_grad():
            for weights in network.parameters():
                weights.copy_(rounded(weights))
        for layer in network.modules():
            if not [*layer.children()]:
                layer.register_forward_pre_hook(before)
                layer.register_forward_hook(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "images", "reference"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    exact, rough = (Predictor.load(args.model, device="cpu") for _ in range(2))
    emulate(rough)
    voxels, differ = 0, np.zeros(2, dtype=int)
    for path in sorted(args.images.glob("*_0000.nii.gz")):
        name = path.name.replace("_0000", "")
        reference = sitk.GetArrayFromImage(sitk.ReadImage(str(args.reference / name)))
        found = [sitk.GetArrayFromImage(predict(path)) for predict in (exact, rough)]
        differ += [int((labels != reference).sum()) for labels in found]
        voxels += reference.size
        print(name, *differ, voxels, flush=True)
    for kind, count in zip(("float32", "bf16"), differ, strict=True):
        print(f"{kind}: {count} of {voxels} voxels differ, {1 - count / voxels:.4%} agree")


if __name__ == "__main__":
    main()
