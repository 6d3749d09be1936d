"""The U-Net's outputs, for every shape that a plan can ask for, and its instance norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autoseg.core.errors import UsageError
from autoseg.core.plan import NetworkSpec
from autoseg.nets.build import build_network, channels_last
from autoseg.nets.residual import ResidualBlock
from autoseg.nets.unet import InstanceNorm

SpecAndPatch = tuple[NetworkSpec, tuple[int, ...]]


def network_of(spec: NetworkSpec, *, n_channels: int = 2, n_outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_network(spec, n_channels=n_channels, n_outputs=n_outputs)


def test_training_gives_every_decoder_stage_from_full_resolution_down(spec_and_patch: SpecAndPatch) -> None:
    spec, patch = spec_and_patch
    outputs = network_of(spec).train()(torch.randn(2, 2, *patch))
    assert isinstance(outputs, list)
    assert len(outputs) == max(1, len(spec.strides) - 1)
    scale = np.cumprod(spec.strides, axis=0)
    for output, divisor in zip(outputs, scale, strict=False):
        assert output.shape == (2, 3, *(np.array(patch) // divisor))


def test_evaluation_gives_the_first_of_them_alone(spec_and_patch: SpecAndPatch) -> None:
    spec, patch = spec_and_patch
    network, image = network_of(spec), torch.randn(1, 2, *patch)
    with torch.no_grad():
        training, evaluated = network.train()(image), network.eval()(image)
    assert evaluated.shape == (1, 3, *patch)
    assert torch.equal(evaluated, training[0])


def test_every_parameter_learns(spec_and_patch: SpecAndPatch) -> None:
    spec, patch = spec_and_patch
    network = network_of(spec).train()
    for module in network.modules():
        if isinstance(module, ResidualBlock):  # begins as its shortcut, with nothing to learn before that norm
            nn.init.ones_(module.norm.weight)
    sum(output.square().sum() for output in network(torch.randn(2, 2, *patch))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("bias"):  # an instance norm behind it takes away what a convolution's bias adds
            assert parameter.grad.abs().sum() > 0, name


def test_the_receptive_field_reaches_across_the_patch(spec_and_patch: SpecAndPatch) -> None:
    spec, patch = spec_and_patch
    network = network_of(spec).eval()
    image = torch.randn(1, 2, *patch, requires_grad=True)
    network(image)[(0, 0, *(n // 2 for n in patch))].backward()
    assert (image.grad[0].abs().sum(0) > 0).all()


def test_kernels_strides_and_features_are_those_of_the_spec(spec_and_patch: SpecAndPatch) -> None:
    spec, _ = spec_and_patch
    network = network_of(spec)
    residual = spec.name == "residual_encoder_unet"
    for stage, block in enumerate(network.encoder):
        convolutions = [
            module
            for name, module in block.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and "shortcut" not in name
        ]
        stem = int(residual and stage == 0)
        assert len(convolutions) == (2 if residual else 1) * spec.blocks_per_stage[stage] + stem
        assert [*convolutions[0].stride] == spec.strides[stage]
        assert all(set(conv.stride) == {1} for conv in convolutions[1:])
        assert all([*conv.kernel_size] == spec.kernel_sizes[stage] for conv in convolutions)
        assert all(conv.out_channels == spec.features_per_stage[stage] for conv in convolutions)
    for block, up, stage in zip(network.decoder, network.up, reversed(range(len(spec.strides) - 1)), strict=True):
        convolutions = [m for m in block.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
        assert len(convolutions) == spec.blocks_per_stage_decoder[stage]
        assert all([*conv.kernel_size] == spec.kernel_sizes[stage] for conv in convolutions)
        assert [*up.stride] == [*up.kernel_size] == spec.strides[stage + 1]


@pytest.mark.parametrize(("n_in", "stride"), [(4, [1, 1, 1]), (4, [1, 2, 2]), (3, [1, 1, 1]), (3, [2, 2, 2])])
def test_a_residual_block_begins_as_its_shortcut(n_in: int, stride: list[int]) -> None:
    block, x = ResidualBlock(n_in, 4, kernel=[1, 3, 3], stride=stride), torch.randn(2, n_in, 4, 6, 8)
    expected = functional.avg_pool3d(x, stride, stride=stride)
    if n_in != 4:
        convolution = block.shortcut[-2]
        assert convolution.bias is None
        expected = functional.instance_norm(functional.conv3d(expected, convolution.weight))
    torch.testing.assert_close(block(x), functional.leaky_relu(expected, 0.01))
    assert [*block.first.layers[0].stride] == stride


def test_weights_start_as_kaiming_and_biases_as_zero() -> None:
    facts = {
        "features_per_stage": [64],
        "strides": [[1, 1]],
        "kernel_sizes": [[3, 3]],
        "blocks_per_stage": [2],
    }
    network = network_of(NetworkSpec.model_validate({**facts, "blocks_per_stage_decoder": []}))
    convolution = network.encoder[0].layers[3]
    assert convolution.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / (64 * 9)) ** 0.5, rel=0.02)
    assert not convolution.bias.any()


def test_an_unknown_network_is_named() -> None:
    facts = {
        "features_per_stage": [4],
        "strides": [[1, 1]],
        "kernel_sizes": [[3, 3]],
        "blocks_per_stage": [2],
    }
    spec = NetworkSpec.model_validate({**facts, "blocks_per_stage_decoder": [], "name": "plain_unett"})
    with pytest.raises(UsageError, match="did you mean 'plain_unet'"):
        build_network(spec, n_channels=1, n_outputs=2)


def test_weights_lie_in_channels_last_order(spec_and_patch: SpecAndPatch) -> None:
    spec, patch = spec_and_patch
    memory_format = channels_last(len(patch))
    weight = next(m for m in network_of(spec).modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))).weight
    assert weight.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shape", [(1, 3, 7, 5), (2, 4, 6, 1), (3, 2, 5, 4, 3), (1, 1, 2, 1, 1)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("spread", [50, 0.005])  # the small one shows eps
def test_instance_norm_equals_torchs(shape: tuple[int, ...], last: bool, spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator) * spread + spread / 2
    x = x.to(memory_format=channels_last(len(shape) - 2)) if last else x
    norm = InstanceNorm(shape[1])
    with torch.no_grad():
        norm.weight.copy_(torch.randn(shape[1], generator=generator))
        norm.bias.copy_(torch.randn(shape[1], generator=generator))
    expected = functional.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-5)
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)
    axes = tuple(range(2, len(shape)))
    scale = (1, -1, *[1] * len(axes))
    plain = (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, correction=0) + 1e-5).sqrt()
    by_hand = plain * norm.weight.view(scale) + norm.bias.view(scale)
    torch.testing.assert_close(norm(x), by_hand, rtol=1e-4, atol=1e-4)
