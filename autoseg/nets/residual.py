"""The residual encoder: a stem, then stages of residual blocks (reference rules 3.9, BasicBlockD)."""

from __future__ import annotations

from torch import Tensor, nn

from autoseg.core.plan import NetworkSpec
from autoseg.nets.unet import CONV, SLOPE, ConvBlock, InstanceNorm, UNet, new_conv, variance_of_channels

POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class ResidualBlock(nn.Module):
    """Two convolutions past which the input takes a shortcut: averaged where they stride, 1x1 where they widen.

    The last norm starts at zero, so that every block begins as its shortcut.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel: list[int], stride: list[int]) -> None:
        super().__init__()
        dimensions = len(kernel)
        self.first = ConvBlock(n_in, n_out, kernel=kernel, stride=stride, n_convs=1)
        self.second = new_conv(n_out, n_out, kernel=kernel, stride=[1] * dimensions)
        self.norm = InstanceNorm(n_out)
        nn.init.zeros_(self.norm.weight)
        shortcut: list[nn.Module] = []
        if any(step != 1 for step in stride):
            shortcut.append(POOL[dimensions](tuple(stride), stride=tuple(stride)))
        if n_in != n_out:
            shortcut += [CONV[dimensions](n_in, n_out, 1, bias=False), InstanceNorm(n_out)]
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, *size) -> (B, n_out, *size / stride)."""
        return self.activation(self.norm(self.second(self.first(x))) + self.shortcut(x))  # type: ignore[no-any-return]

    def with_variance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the variance of each channel before the norm after the second convolution, (B, n_out)."""
        before = self.second(self.first(x))
        return self.activation(self.norm(before) + self.shortcut(x)), variance_of_channels(before)


def residual_encoder_unet(spec: NetworkSpec, *, n_channels: int, n_outputs: int) -> UNet:
    """A U-Net whose encoder has `blocks_per_stage` residual blocks per stage; its decoder is plain."""
    features = [spec.features_per_stage[0], *spec.features_per_stage]
    stages: list[nn.Module] = []
    for stage, (blocks, kernel, stride) in enumerate(
        zip(spec.blocks_per_stage, spec.kernel_sizes, spec.strides, strict=True)
    ):
        n_in, n_out = features[stage], features[stage + 1]
        layers: list[nn.Module] = []
        if stage == 0:
            layers.append(ConvBlock(n_channels, n_out, kernel=kernel, stride=stride, n_convs=1))
        for block in range(blocks):
            first = block == 0
            layers.append(
                ResidualBlock(
                    n_in if first else n_out, n_out, kernel=kernel, stride=stride if first else [1] * len(stride)
                )
            )
        stages.append(nn.Sequential(*layers))
    return UNet(stages, spec, n_outputs=n_outputs)
