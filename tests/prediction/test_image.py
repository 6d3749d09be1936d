"""From an image array to labels on its own grid, with networks whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.transform import resize
from torch import nn

from autoseg.core.errors import DeviceError
from autoseg.core.plan import Plan
from autoseg.nets.build import build_network
from autoseg.ops.case_transform import prepare
from autoseg.prediction import image as module
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.image import Settings, predict_image

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


@pytest.mark.parametrize(
    ("patch", "spacing", "target", "axis"),
    [
        ((8, 16, 8), (1.0, 1.0, 1.0), (0.8, 1.2, 0.9), None),  # isotropic
        ((4, 16, 16), (5.0, 0.9, 0.8), (4.0, 1.1, 1.0), 0),  # anisotropic: nearest along the coarse axis
        ((16, 8), (3.0, 0.9, 0.8), (1.1, 1.0), None),  # 2d
    ],
    ids=["isotropic", "anisotropic", "2d"],
)
def test_a_real_network_gives_the_labels_of_the_whole_volume_everywhere(
    make_plan: MakePlan, patch: tuple, spacing: tuple, target: tuple, axis: int | None
) -> None:
    """Against accumulation of the whole volume in 64 bits, scikit-image's resize of it, and argmax."""
    labels = {"background": 0, "a": 1, "b": 2, "c": 3}
    plan = make_plan(patch_size=patch, spacing_mm=target, labels=labels, mirror_axes=range(len(patch)))
    members = [ensemble_for(plan, random_network(plan))]
    image = np.random.default_rng(4).normal(3, 1, size=(1, 17, 30, 27)).astype(np.float32)
    case = prepare(image, None, spacing_mm=spacing, plan=plan, configuration=plan.configuration("small"))
    logits = whole_volume(case.image, members[0].logits, patch)
    if axis is None and len(patch) == 2:
        native = np.stack([np.stack([resized(row, (30, 27), None) for row in channel]) for channel in logits])
    else:
        native = np.stack([resized(channel, image.shape[1:], axis) for channel in logits])
    found = predict_image(members, image, spacing_mm=spacing)
    assert np.array_equal(found, native.argmax(axis=0))
    assert len(np.unique(found)) >= 3


def random_network(plan: Plan) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(plan.configuration("small").network, n_channels=1, n_outputs=4)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(layer.weight, std=0.2)
    return network.eval()


def whole_volume(image: np.ndarray, answer: Callable[[torch.Tensor], torch.Tensor], patch: tuple) -> np.ndarray:
    """Weighted mean of tiles in float64; image (C, Z, Y, X) no smaller than the patch."""
    tile = (1, *patch)[-3:]
    delta = np.zeros(tile)
    delta[tuple(n // 2 for n in tile)] = 1
    window = gaussian_filter(delta, [n / 8 for n in tile], mode="constant")
    window[window == 0] = window[window > 0].min()
    total, weight = np.zeros((4, *image.shape[1:])), np.zeros(image.shape[1:])
    corners = []
    for n, p in zip(image.shape[1:], tile, strict=True):
        steps = int(np.ceil((n - p) / (0.5 * p)))
        corners.append(sorted({round(i * (n - p) / max(1, steps)) for i in range(steps + 1)}))
    for corner in product(*corners):
        box = tuple(slice(c, c + p) for c, p in zip(corner, tile, strict=True))
        crop = torch.from_numpy(image[(slice(None), *box)].copy())
        logits = answer(crop[None, :, 0] if len(patch) == 2 else crop[None])[0].double().numpy()
        total[(slice(None), *box)] += (logits[:, None] if len(patch) == 2 else logits) * window
        weight[box] += window
    return total / weight


def test_memory_that_the_c_library_holds_is_given_back_before_a_case_is_refused(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [5.0]
    monkeypatch.setattr(module, "used_memory_gb", lambda: 0.1 + held[0])
    monkeypatch.setattr(module, "give_back_freed_memory", lambda: held.__setitem__(0, 0.0))
    plan = make_plan(labels={"background": 0, "dark": 7, "bright": 300})
    members, limit = [ensemble_for(plan, Thresholds(3))], Settings(max_memory_gb=2)
    found = predict_image(members, levels(), spacing_mm=(1.0, 1.0, 1.0), settings=limit)
    assert found.any()
    held[0] = 5.0
    monkeypatch.setattr(module, "give_back_freed_memory", lambda: None)
    with pytest.raises(DeviceError, match="may be used"):
        predict_image(members, levels(), spacing_mm=(1.0, 1.0, 1.0), settings=limit)
