"""Memory by arithmetic: weights are counted exactly, activations as autograd keeps them."""

from __future__ import annotations

import pytest
import torch

from autoseg.core.plan import NetworkSpec
from autoseg.nets.build import build_network
from autoseg.nets.memory import count_parameters, training_memory

SpecAndPatch = tuple[NetworkSpec, tuple[int, ...]]


@pytest.mark.parametrize(("n_channels", "n_outputs"), [(1, 2), (3, 7)])
def test_weights_are_counted_exactly(spec_and_patch: SpecAndPatch, n_channels: int, n_outputs: int) -> None:
    spec, _ = spec_and_patch
    network = build_network(spec, n_channels=n_channels, n_outputs=n_outputs)
    expected = sum(parameter.numel() for parameter in network.parameters())
    assert count_parameters(spec, n_channels=n_channels, n_outputs=n_outputs) == expected


@pytest.mark.parametrize("name", ["plain_unet", "residual_encoder_unet"])
def test_activations_are_what_autograd_keeps(name: str) -> None:
    residual = name == "residual_encoder_unet"
    spec = NetworkSpec(
        name=name,
        features_per_stage=[8, 16, 32],
        strides=[[1, 1, 1], [2, 2, 2], [1, 2, 2]],
        kernel_sizes=[[3, 3, 3]] * 3,
        blocks_per_stage=[1, 3, 4] if residual else [2, 2, 2],
        blocks_per_stage_decoder=[1, 1] if residual else [2, 2],
    )
    network, patch, batch = build_network(spec, n_channels=1, n_outputs=3).train(), (16, 32, 32), 2
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(torch.zeros(batch, 1, *patch))
    memory = training_memory(spec, patch, batch_size=batch, n_channels=1, n_outputs=3, precision="float32")
    assert len(outputs) == 2
    assert memory.activations * 1e9 == pytest.approx(sum(kept.values()), rel=0.1)


def test_more_of_anything_costs_more() -> None:
    spec = NetworkSpec(
        features_per_stage=[8, 16],
        strides=[[1, 1], [2, 2]],
        kernel_sizes=[[3, 3], [3, 3]],
        blocks_per_stage=[2, 2],
        blocks_per_stage_decoder=[2],
    )
    facts = {"batch_size": 2, "n_channels": 1, "n_outputs": 3, "precision": "bf16"}
    usual = training_memory(spec, (64, 64), **facts)
    assert usual.total == pytest.approx(sum(vars(usual).values()))
    for more in ({"batch_size": 4}, {"n_outputs": 9}, {"precision": "float32"}, {"moments": 2}, {"averaged": True}):
        assert training_memory(spec, (64, 64), **{**facts, **more}).total > usual.total
    assert training_memory(spec, (64, 64), **{**facts, "batch_size": 4}).activations == 2 * usual.activations
