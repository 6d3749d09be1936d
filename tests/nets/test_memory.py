"""Memory by arithmetic: weights are counted exactly, activations as autograd keeps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoseg.core.plan import NetworkSpec
from autoseg.nets.build import build_network
from autoseg.nets.memory import count_parameters, inference_memory_gb, training_memory

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


# A forward pass as a prediction does it: two mirrored copies, added up.
FORWARD = """
import json, sys
from pathlib import Path
import torch
from autoseg.core.plan import NetworkSpec
from autoseg.nets.build import build_network, channels_last

def status(name):
    rows = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows[name].split()[0]) * 1024

@torch.inference_mode()
def logits(network, tiles):
    total = None
    for dims in ([], [2]):
        flipped = (tiles.flip(dims) if dims else tiles).contiguous(memory_format=channels_last(tiles.ndim - 2))
        out = network(flipped)
        out = out.float().flip(dims) if dims else out.float()
        if total is None:
            total = torch.zeros_like(out)
        total += out
    return total.div_(2)

torch.set_num_threads(2)
found = []
for fields, patch, n_channels, n_outputs in json.loads(sys.argv[1]):
    spec = NetworkSpec.model_validate(fields)
    network = build_network(spec, n_channels=n_channels, n_outputs=n_outputs).eval()
    logits(network, torch.zeros(1, n_channels, *[n // 4 for n in patch]))  # libraries load what they need
    Path("/proc/self/clear_refs").write_text("5")  # the high water mark begins anew
    before = status("VmRSS")
    answer = logits(network, torch.rand(1, n_channels, *patch))
    found.append(status("VmHWM") - before)
    del answer, network
print(json.dumps(found))
"""
FACTOR = 1.5  # between what a forward pass took and what was foretold


def _spec(name: str, dimensions: int, features: list[int]) -> NetworkSpec:
    stages, residual = len(features), name == "residual_encoder_unet"
    return NetworkSpec(
        name=name,
        features_per_stage=features,
        strides=[[1] * dimensions, *[[2] * dimensions] * (stages - 1)],
        kernel_sizes=[[3] * dimensions] * stages,
        blocks_per_stage=[1, *[2] * (stages - 1)] if residual else [2] * stages,
        blocks_per_stage_decoder=[1 if residual else 2] * (stages - 1),
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs Linux's /proc")
def test_a_forward_pass_takes_what_was_foretold() -> None:
    cases = [
        (_spec("plain_unet", 3, [16, 32]), (48, 64, 64), 1, 3),
        (_spec("residual_encoder_unet", 3, [16, 32]), (48, 64, 64), 1, 3),
        (_spec("residual_encoder_unet", 2, [24, 48]), (400, 480), 2, 3),
        (_spec("plain_unet", 2, [8, 16]), (400, 480), 1, 90),  # the answers are larger than the feature maps
        (_spec("plain_unet", 2, [8, 16]), (400, 480), 60, 3),  # so is what a cascade shows to its second stage
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORWARD, json.dumps([(spec.model_dump(), *rest) for spec, *rest in cases])],
        capture_output=True,
        text=True,
        timeout=300,
        # freed memory goes back to the system at once
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    for taken, (spec, patch, n_channels, n_outputs) in zip(json.loads(done.stdout), cases, strict=True):
        facts = {"n_channels": n_channels, "n_outputs": n_outputs}
        foretold = inference_memory_gb(spec, patch, precision="float32", **facts) * 1e9
        text = f"{spec.name} {patch} {facts}: {taken / 1e6:.0f} MB taken, {foretold / 1e6:.0f} MB foretold"
        print(text)
        assert foretold / FACTOR < taken < foretold * FACTOR, text


def test_half_precision_halves_the_feature_maps() -> None:
    spec = _spec("plain_unet", 3, [8, 16, 32])
    patch, maps = (16, 16, 32), 8 * 8192 + 16 * 1024 + 32 * 128 + 4 * 8 * 8192
    facts = {"n_channels": 2, "n_outputs": 5}
    single = inference_memory_gb(spec, patch, precision="float32", **facts)
    for precision in ("bf16", "fp16"):
        saved = single - inference_memory_gb(spec, patch, precision=precision, **facts)
        assert saved * 1e9 == pytest.approx(2 * (maps + 5 * 8192))
    assert single * 1e9 == pytest.approx(4 * maps + 3 * 4 * 2 * 8192 + 16 * 5 * 8192)
