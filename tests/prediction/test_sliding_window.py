"""Streamed logits against a whole volume that is accumulated with plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from autoseg.core.errors import DeviceError
from autoseg.prediction import sliding_window
from autoseg.prediction.sliding_window import stream_logits

CPU = torch.device("cpu")
Network = Callable[[torch.Tensor], torch.Tensor]


def network_for(patch: tuple[int, ...], *, channels: int = 2, outputs: int = 3) -> Network:
    """Answers that depend on neighbours and on the place within the tile, so that every tile matters."""
    torch.manual_seed(3)
    conv = (torch.nn.Conv2d if len(patch) == 2 else torch.nn.Conv3d)(channels, outputs, 3, padding=1)
    ramp = torch.randn(outputs, *patch)

    @torch.no_grad()
    def answer(tiles: torch.Tensor) -> torch.Tensor:
        assert tiles.shape[1:] == (channels, *patch)
        return torch.tanh(conv(tiles)) * 3 + ramp

    return answer


def whole_volume(image: np.ndarray, network: Network, patch: tuple[int, ...], step: float) -> np.ndarray:
    flat = len(patch) == 2
    patch3 = (1, *patch) if flat else patch
    before = [max(0, p - n) // 2 for p, n in zip(patch3, image.shape[1:], strict=True)]
    size = [max(p, n) for p, n in zip(patch3, image.shape[1:], strict=True)]
    padded = np.zeros((image.shape[0], *size), dtype=np.float32)
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    padded[(slice(None), *inner)] = image
    delta = np.zeros(patch3)
    delta[tuple(p // 2 for p in patch3)] = 1
    window = gaussian_filter(delta, [p / 8 for p in patch3], mode="constant")
    corners = []
    for n, p in zip(size, patch3, strict=True):
        tiles = ceil((n - p) / (step * p)) + 1
        corners.append([round(i * (n - p) / max(1, tiles - 1)) for i in range(tiles)])
    total, weight = 0.0, np.zeros(size)
    for corner in product(*corners):
        box = tuple(slice(c, c + p) for c, p in zip(corner, patch3, strict=True))
        tile = torch.from_numpy(padded[(slice(None), *box)].copy())
        out = network(tile[None, :, 0] if flat else tile[None])[0].double().numpy()
        out = out[:, None] if flat else out
        if isinstance(total, float):
            total = np.zeros((len(out), *size))
        total[(slice(None), *box)] += out * window
        weight[box] += window
    return (total / weight)[(slice(None), *inner)]


def stream(image: np.ndarray, network: Network, patch: tuple[int, ...], step: float, outputs: int = 3) -> list:
    slabs = stream_logits(torch.from_numpy(image), network, patch_size=patch, n_outputs=outputs, step=step, device=CPU)
    return list(slabs)


@pytest.mark.parametrize("step", [0.5, 0.3, 1.0])
@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((13, 17, 11), (8, 8, 8)),
        ((16, 16, 16), (8, 8, 8)),
        ((9, 30, 23), (4, 12, 10)),
        ((31, 9, 10), (5, 7, 9)),
        ((40, 8, 8), (8, 8, 8)),
        ((8, 8, 8), (8, 8, 8)),
        ((3, 5, 20), (8, 8, 8)),
        ((19, 3, 1), (6, 8, 4)),
        ((1, 1, 1), (4, 4, 4)),
        ((5, 17, 11), (8, 6)),
        ((1, 7, 4), (8, 8)),
    ],
)
def test_streaming_equals_the_whole_volume(shape: tuple, patch: tuple, step: float) -> None:
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    network = network_for(patch)
    slabs = stream(image, network, patch, step)
    assert all(slab.dtype == torch.float32 for slab in slabs)
    logits = torch.cat(slabs, dim=1).numpy()
    assert logits.shape == (3, *shape)
    np.testing.assert_allclose(logits, whole_volume(image, network, patch, step), atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.floats(0.2, 1.0),
)
def test_tiles_that_agree_come_out_unchanged(shape: tuple, patch: tuple, step: float) -> None:
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    logits = torch.cat(stream(image, lambda tiles: tiles, patch, step, outputs=1), dim=1)
    np.testing.assert_allclose(logits.numpy(), image, atol=1e-5)


def test_rows_come_out_before_later_tiles_are_seen() -> None:
    seen: list[float] = []
    slabs = stream_logits(
        torch.zeros(1, 64, 8, 8),
        lambda tiles: tiles,
        patch_size=(8, 8, 8),
        n_outputs=1,
        step=0.5,
        device=CPU,
        progress=seen.append,
    )
    first = next(slabs)
    assert first.shape[1] <= 8
    assert seen[-1] < 0.2
    assert sum(slab.shape[1] for slab in slabs) + first.shape[1] == 64
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_slabs_are_small_however_large_the_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(2).normal(size=(1, 24, 9, 8)).astype(np.float32)
    patch = (16, 8, 8)
    monkeypatch.setattr(sliding_window, "SLAB_BYTES", 3 * 9 * 8 * 4 * 2)  # two rows of three outputs
    network = network_for(patch, channels=1)
    slabs = stream(image, network, patch, 0.5)
    assert max(slab.shape[1] for slab in slabs) == 2
    np.testing.assert_allclose(torch.cat(slabs, dim=1).numpy(), whole_volume(image, network, patch, 0.5), atol=2e-5)


def test_tiles_are_batched_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(2).normal(size=(2, 9, 20, 21)).astype(np.float32)
    sizes: list[int] = []
    network = network_for((8, 8, 8))

    def counted(tiles: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tiles))
        return network(tiles)

    together = torch.cat(stream(image, counted, (8, 8, 8), 0.5), dim=1)
    assert max(sizes) > 1
    monkeypatch.setattr(sliding_window, "CPU_TILE_VOXELS", 1)
    sizes.clear()
    single = torch.cat(stream(image, counted, (8, 8, 8), 0.5), dim=1)
    assert set(sizes) == {1}
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_refused(value: float) -> None:
    image = np.zeros((1, 20, 9, 9), dtype=np.float32)
    image[0, 17, 4, 4] = value
    with pytest.raises(DeviceError, match="not finite"):
        stream(image, lambda tiles: tiles, (8, 8, 8), 0.5, outputs=1)
