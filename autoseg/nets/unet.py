"""U-Nets, two- or three-dimensional, built from a NetworkSpec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autoseg.core.plan import NetworkSpec

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SLOPE = 0.01


class InstanceNorm(nn.Module):
    """Instance norm with learned scale and shift, eps 1e-5, for 2-D and 3-D feature maps (B, n, *size)."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise every channel of every sample over its voxels."""
        if x.device.type == "cpu":
            # Group norm with one channel per group is the same; its CPU kernel keeps the memory format.
            return functional.group_norm(x, x.shape[1], self.weight, self.bias, 1e-5)
        return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=1e-5)


def new_conv(n_in: int, n_out: int, *, kernel: list[int], stride: list[int]) -> nn.Module:
    """A convolution that keeps the size but for its stride."""
    padding = tuple((k - 1) // 2 for k in kernel)
    return CONV[len(kernel)](n_in, n_out, tuple(kernel), stride=tuple(stride), padding=padding)


class ConvBlock(nn.Module):
    """Convolutions, each followed by instance norm and LeakyReLU; the first one may stride."""

    def __init__(self, n_in: int, n_out: int, *, kernel: list[int], stride: list[int], n_convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(n_convs):
            layers += [
                new_conv(n_in, n_out, kernel=kernel, stride=stride),
                InstanceNorm(n_out),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
            n_in, stride = n_out, [1] * len(stride)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_in, *size) -> (B, n_out, *size / stride)."""
        return self.layers(x)  # type: ignore[no-any-return]

    def with_variance(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and the variance of each channel before the last norm, (B, n_out)."""
        before = self.layers[:-2](x)
        return self.layers[-2:](before), variance_of_channels(before)


def variance_of_channels(x: torch.Tensor) -> torch.Tensor:
    """(B, n, *size) -> float32 (B, n): variance over the voxels."""
    return x.float().var(dim=tuple(range(2, x.ndim)), correction=0)


class UNet(nn.Module):
    """Any encoder of one module per stage, a decoder of transposed convolutions with skip connections.

    In training mode it returns the segmentation logits of every decoder stage, full resolution first (for
    deep supervision); in evaluation mode only the full resolution, (B, n_outputs, *patch).
    """

    def __init__(self, encoder: Sequence[nn.Module], spec: NetworkSpec, *, n_outputs: int) -> None:
        super().__init__()
        dimensions = len(spec.strides[0])
        self.encoder = nn.ModuleList(encoder)
        self.n_features = sum(spec.features_per_stage)  # of `features`
        self.up, self.decoder, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage in reversed(range(len(spec.features_per_stage) - 1)):
            below, here = spec.features_per_stage[stage + 1], spec.features_per_stage[stage]
            stride = spec.strides[stage + 1]
            self.up.append(TRANSPOSED[dimensions](below, here, tuple(stride), stride=tuple(stride)))
            self.decoder.append(
                ConvBlock(
                    2 * here,
                    here,
                    kernel=spec.kernel_sizes[stage],
                    stride=[1] * dimensions,
                    n_convs=spec.blocks_per_stage_decoder[stage],
                )
            )
            self.heads.append(CONV[dimensions](here, n_outputs, 1))
        if not self.heads:  # a patch too small to pool has one stage and no decoder
            self.heads.append(CONV[dimensions](spec.features_per_stage[0], n_outputs, 1))
        self.apply(_initialise)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_channels, *patch) -> float32 (B, n_features): how much each channel varies over the voxels.

        Measured per encoder stage, full resolution first, before its last norm, which takes that away.
        """
        found = []
        for stage in self.encoder:
            *first, last = stage if isinstance(stage, nn.Sequential) else [stage]
            for block in first:
                x = block(x)
            x, variance = last.with_variance(x)
            found.append(variance)
        return torch.cat(found, dim=1)

    @property
    def has_features(self) -> bool:
        """Whether every encoder stage ends in a block that can tell the variance before its last norm."""
        lasts = [[*stage][-1] if isinstance(stage, nn.Sequential) else stage for stage in self.encoder]
        return all(hasattr(last, "with_variance") for last in lasts)

    def forward(self, x: torch.Tensor) -> Any:
        """(B, n_channels, *patch) -> logits; in training a list of them, full resolution first."""
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        skips.pop()
        last = len(self.decoder) - 1
        outputs = [self.heads[0](x)] if last < 0 else []  # one stage has a head, but nothing to decode
        for i, (up, block, head) in enumerate(zip(self.up, self.decoder, self.heads, strict=False)):
            x = torch.cat([up(x), skips.pop()], dim=1)
            for layer in block.layers:  # not block(x), which would hold what is concatenated until its end
                x = layer(x)
            if self.training or i == last:
                outputs.append(head(x))
        return outputs[::-1] if self.training else outputs[-1]


def plain_unet(spec: NetworkSpec, *, n_channels: int, n_outputs: int) -> UNet:
    """A U-Net whose encoder has `blocks_per_stage` convolutions per stage, the first of which strides."""
    features = [n_channels, *spec.features_per_stage]
    stages = [
        ConvBlock(
            features[stage],
            features[stage + 1],
            kernel=spec.kernel_sizes[stage],
            stride=spec.strides[stage],
            n_convs=spec.blocks_per_stage[stage],
        )
        for stage in range(len(spec.features_per_stage))
    ]
    return UNet(stages, spec, n_outputs=n_outputs)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        if module.weight.is_meta:
            return  # weights will be loaded; to draw numbers that are none takes PyTorch two seconds of imports
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
