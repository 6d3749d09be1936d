"""Which tiles are looked at; features of an image against the network's own layers; the score of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoseg.core.plan import Plan
from autoseg.nets.build import build_network
from autoseg.nets.unet import InstanceNorm
from autoseg.ops.familiarity import familiar_with
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.features import MOST_TILES, has_features, image_features, out_of_distribution, tile_boxes
from autoseg.prediction.image import prepare_image

MakePlan = Callable[..., Plan]
sizes = st.tuples(*[st.integers(1, 40)] * 3)


def ensemble_for(plan: Plan, *, n: int = 1, network: str = "plain_unet") -> Ensemble:
    torch.manual_seed(0)
    configuration = plan.configuration("small")
    spec = configuration.network.with_changes(name=network)
    networks = [build_network(spec, n_channels=1, n_outputs=2).eval() for _ in range(n)]
    return Ensemble(
        plan=plan,
        configuration=configuration,
        networks=tuple(networks),
        folds=tuple(map(str, range(n))),
        device=torch.device("cpu"),
        precision="float32",
    )


@settings(max_examples=60, deadline=None)
@given(sizes, sizes)
def test_tiles_are_few_different_and_inside(shape: Sequence[int], patch: Sequence[int]) -> None:
    boxes = tile_boxes(shape, patch)
    assert 1 <= len(boxes) <= MOST_TILES
    assert len({tuple((part.start, part.stop) for part in box) for box in boxes}) == len(boxes)
    for box in boxes:
        for part, n, p in zip(box, shape, patch, strict=True):
            assert part.start >= 0
            assert part.stop <= n
            assert part.stop - part.start == min(n, p)


def test_slices_of_2d_configurations_are_spread() -> None:
    boxes = tile_boxes((40, 10, 10), (1, 16, 16))
    assert [box[0].start for box in boxes] == [2, 7, 12, 17, 22, 27, 32, 37]


@pytest.mark.parametrize("network", ["plain_unet", "residual_encoder_unet"])
@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 16)])
def test_features_are_variances_before_the_last_norm_of_every_stage(
    make_plan: MakePlan, network: str, patch: tuple[int, ...]
) -> None:
    plan = make_plan(patch_size=patch)
    member = ensemble_for(plan, network=network)
    image = np.random.default_rng(0).normal(0, 1, (1, 5, 20, 9)).astype(np.float32)
    before: list[torch.Tensor] = []
    for stage in member.networks[0].encoder:  # type: ignore[union-attr]
        block = stage[-1] if isinstance(stage, nn.Sequential) else stage
        norms = [block.norm] if hasattr(block, "norm") else [m for m in block.modules() if isinstance(m, InstanceNorm)]
        norms[-1].register_forward_pre_hook(lambda _, inputs: before.append(inputs[0].detach()))
    found = image_features(member, image)
    boxes = tile_boxes(image.shape[1:], member.patch)
    stages = len(member.configuration.network.features_per_stage)
    assert len(before) == stages * len(boxes)
    expected = [
        np.mean(
            [tensor.double().numpy()[0].var(axis=tuple(range(1, tensor.ndim - 1))) for tensor in before[i::stages]],
            axis=0,
        )
        for i in range(stages)
    ]
    np.testing.assert_allclose(found[0], 0.5 * np.log(np.concatenate(expected)), atol=1e-4)
    assert found.shape == (1, member.networks[0].n_features)


@pytest.mark.parametrize("network", ["plain_unet", "residual_encoder_unet"])
def test_what_the_encoder_hands_on_is_the_same_with_features(make_plan: MakePlan, network: str) -> None:
    member = ensemble_for(make_plan(), network=network)
    x = torch.randn(2, 1, 8, 8, 8)
    with torch.inference_mode():
        for stage in member.networks[0].encoder:  # type: ignore[union-attr]
            block = stage[-1] if isinstance(stage, nn.Sequential) else stage
            y = stage[:-1](x) if isinstance(stage, nn.Sequential) else x
            expected = block(y.clone())
            assert torch.equal(block.with_variance(y.clone())[0], expected)
            x = stage(x)


def test_a_network_without_an_encoder_has_no_features_and_gives_no_score(make_plan: MakePlan) -> None:
    member = replace(ensemble_for(make_plan()), networks=(nn.Conv3d(1, 2, 1),), familiar=(None,))
    assert not has_features(member)
    image = prepare_image([member], np.ones((1, 9, 9, 9), dtype=np.float32), spacing_mm=(1, 1, 1))
    assert out_of_distribution([member], image) is None


def test_noise_is_unusual_and_a_sibling_is_not(make_plan: MakePlan) -> None:
    plan = make_plan(normalization=("zscore",))
    member = ensemble_for(plan, n=2)

    def image(seed: int, noise: float = 0.0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        z, y, x = np.indices((12, 14, 16))
        size, *centre = rng.uniform([3, 5, 5, 5], [5, 8, 8, 8])
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < size**2
        return (10.0 + 5 * ball + rng.normal(0, 0.3 + noise, ball.shape))[None].astype(np.float32)

    def prepared(voxels: np.ndarray) -> object:
        return prepare_image([member], voxels, spacing_mm=(1, 1, 1))

    vectors = np.stack([image_features(member, prepared(image(i)).cases[0].image) for i in range(40)])  # type: ignore[attr-defined]
    known = [familiar_with(vectors[:25, i], vectors[25:, i]) for i in range(2)]
    assert out_of_distribution([member], prepared(image(77))) is None  # type: ignore[arg-type]
    for familiar in (known, [known[0], None]):
        judge = replace(member, familiar=tuple(familiar))
        assert out_of_distribution([judge], prepared(image(77))) < 1.5  # type: ignore[arg-type, operator]
        assert out_of_distribution([judge], prepared(image(77, noise=3))) > 1.5  # type: ignore[arg-type, operator]
    both = [
        out_of_distribution([replace(member, familiar=f)], prepared(image(5)))
        for f in ((known[0], None), (None, known[1]))
    ]  # type: ignore[arg-type]
    mean = out_of_distribution([replace(member, familiar=tuple(known))], prepared(image(5)))  # type: ignore[arg-type]
    assert mean == pytest.approx(np.mean(both), abs=1e-3)
