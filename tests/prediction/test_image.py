"""From an image array to labels on its own grid, with networks whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import nn

from autoseg.core.plan import Plan
from autoseg.ops.case_transform import prepare
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.image import predict_image

MakePlan = Callable[..., Plan]
CPU = torch.device("cpu")


class Thresholds(nn.Module):
    """Logits that prefer output k where the first channel lies nearest to k, whatever lies around."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-((x[:, 0] - k) ** 2) for k in range(self.n_outputs)], dim=1)


class Above(nn.Module):
    """One region per threshold: where the first channel is larger."""

    def __init__(self, *thresholds: float) -> None:
        super().__init__()
        self.thresholds = thresholds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] - t for t in self.thresholds], dim=1)


def ensemble_for(plan: Plan, network: nn.Module) -> Ensemble:
    return Ensemble(
        plan=plan,
        configuration=plan.configuration("small"),
        networks=(network,),
        folds=("0",),
        device=CPU,
        precision="float32",
    )


def levels(shape: tuple[int, int, int] = (11, 13, 10)) -> np.ndarray:
    """An image of grey levels 1 and 2 with a border of zeros, as wide as one voxel before and two behind."""
    image = np.zeros((1, *shape), dtype=np.float32)
    rng = np.random.default_rng(3)
    image[:, 1:-2, 1:-2, 1:-2] = rng.integers(1, 3, size=[n - 3 for n in shape])
    return image


def resized(channel: np.ndarray, shape: tuple[int, ...], separate_axis: int | None) -> np.ndarray:
    """Linear, with the nearest slice along `separate_axis`."""
    if separate_axis is not None:
        n_in, n_out = channel.shape[separate_axis], shape[separate_axis]
        nearest = [min(n_in - 1, int((2 * i + 1) * n_in // (2 * n_out))) for i in range(n_out)]
        channel = channel.take(nearest, axis=separate_axis)
    return resize(channel, shape, order=1, mode="edge", anti_aliasing=False)


@pytest.mark.parametrize("transpose", list(permutations(range(3))))
@pytest.mark.parametrize("patch", [(8, 8, 8), (4, 8, 16), (8, 6)])
def test_every_voxel_gets_the_value_of_its_grey_level(make_plan: MakePlan, transpose: tuple, patch: tuple) -> None:
    labels = {"background": 0, "dark": 7, "bright": 300}
    plan = make_plan(patch_size=patch, labels=labels, transpose=transpose, mirror_axes=[0, 1])
    image = levels()
    found = predict_image([ensemble_for(plan, Thresholds(3))], image, spacing_mm=(1.0, 1.0, 1.0))
    assert found.dtype == np.uint16
    assert np.array_equal(found, np.array([0, 7, 300])[image[0].astype(int)])


def test_regions_are_painted_in_their_order(make_plan: MakePlan) -> None:
    plan = make_plan(labels={"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=(1, 2))
    image = levels()
    found = predict_image([ensemble_for(plan, Above(0.5, 1.5))], image, spacing_mm=(1.0, 1.0, 1.0))
    assert found.dtype == np.uint8
    assert np.array_equal(found, image[0].astype(int))


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((1.0, 1.0, 1.0), (0.7, 1.3, 0.8), None),
        ((2.0, 0.5, 1.0), (1.0, 1.0, 1.0), None),
        ((1.0, 1.0, 1.0), (4.0, 0.9, 0.8), 0),
        ((1.0, 5.0, 1.0), (1.0, 1.0, 0.7), 1),
        ((4.0, 1.0, 1.0), (1.5, 1.0, 5.0), 2),
    ],
)
def test_resampling_there_and_back_equals_the_whole_volume(
    make_plan: MakePlan, spacing: tuple, target: tuple, axis: int | None
) -> None:
    plan = make_plan(labels={"background": 0, "dark": 3, "bright": 4}, spacing_mm=target)
    rng = np.random.default_rng(8)
    image = np.zeros((1, 12, 14, 13), dtype=np.float32)
    image[:, 2:10, 1:12, 3:] = rng.uniform(0.1, 2.4, size=(8, 11, 10))
    case = prepare(image, None, spacing_mm=spacing, plan=plan, configuration=plan.configuration("small"))
    logits = Thresholds(3)(torch.from_numpy(case.image)[None])[0].double().numpy()
    native = [resized(channel, case.grids.cropped_shape, axis) for channel in logits]
    expected = np.zeros(image.shape[1:], dtype=int)
    expected[2:10, 1:12, 3:] = np.array([0, 3, 4])[np.argmax(native, axis=0)]
    found = predict_image([ensemble_for(plan, Thresholds(3))], image, spacing_mm=spacing)
    # Averaging tiles rounds; a voxel in a thousand may lie between two levels.
    assert (found != expected).mean() < 1e-3
    assert len(np.unique(found)) == 3


def test_an_empty_image_gives_background(make_plan: MakePlan) -> None:
    plan = make_plan(labels={"background": 0, "dark": 1, "bright": 2})
    found = predict_image(
        [ensemble_for(plan, Thresholds(3))], np.zeros((1, 3, 4, 20), dtype=np.float32), spacing_mm=(1.0, 2.0, 3.0)
    )
    assert found.shape == (3, 4, 20)
    assert not found.any()
