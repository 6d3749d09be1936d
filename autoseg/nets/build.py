"""NetworkSpec -> network."""

from __future__ import annotations

import torch
from torch import nn

from autoseg.core.plan import NetworkSpec
from autoseg.core.registry import Registry
from autoseg.nets.residual import residual_encoder_unet
from autoseg.nets.unet import plain_unet

networks = Registry("network")
networks.register("plain_unet")(plain_unet)
networks.register("residual_encoder_unet")(residual_encoder_unet)


def build_network(spec: NetworkSpec, *, n_channels: int, n_outputs: int) -> nn.Module:
    """Build the network that `spec.name` is registered for, in channels-last memory format.

    Raises:
        UsageError: no such network.
    """
    network: nn.Module = networks[spec.name](spec, n_channels=n_channels, n_outputs=n_outputs)
    return network.to(memory_format=channels_last(len(spec.strides[0])))  # type: ignore[call-overload,no-any-return]


def channels_last(dimensions: int) -> torch.memory_format:
    """The memory format in which convolutions of 2-D or 3-D images are fastest."""
    return torch.channels_last if dimensions == 2 else torch.channels_last_3d
