"""Streamed logits against a whole volume that is accumulated with plain loops in float64."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from math import ceil, prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from autoseg.core.errors import DeviceError
from autoseg.prediction import sliding_window
from autoseg.prediction.sliding_window import Accumulator, stream_logits, usual_tiles

CPU = torch.device("cpu")
Network = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiles of a few hundred voxels gain nothing by a second thread, and lose where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def stream(
    image: np.ndarray, network: Network, patch: tuple[int, ...], step: float, outputs: int = 3, **options: object
) -> list:
    slabs = stream_logits(
        torch.from_numpy(image), network, patch_size=patch, n_outputs=outputs, step=step, device=CPU, **options
    )
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


@pytest.mark.parametrize("patch", [(8, 6, 5), (8, 6)])
@pytest.mark.parametrize("asked", [1, 3, 7, 1000])
def test_tiles_at_once_is_what_the_network_sees(patch: tuple, asked: int) -> None:
    shape = (2, 5, 19, 14) if len(patch) == 2 else (2, 19, 14, 9)
    image = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    network, sizes = network_for(patch), []

    def counted(tiles: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tiles))
        return network(tiles)

    step, rows, per_row = (1.0, 5, 3 * 3) if len(patch) == 2 else (0.5, 4, 4 * 3)  # tiles of one row may go together
    logits = torch.cat(stream(image, counted, patch, step, tiles_at_once=asked), dim=1)
    assert sum(sizes) == rows * per_row
    assert max(sizes) == min(asked, per_row)
    assert len(sizes) == rows * ceil(per_row / asked)
    np.testing.assert_allclose(logits.numpy(), whole_volume(image, network, patch, step), atol=2e-5)


def test_usual_tiles_fill_a_device_and_are_at_least_one() -> None:
    assert [usual_tiles(patch, CPU) for patch in ((64, 64), (32, 32, 32), (64, 64, 64), (160, 160, 160))] == [
        64,
        8,
        1,
        1,
    ]
    assert usual_tiles((64, 64, 64), torch.device("cuda")) == 16


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((13, 17, 11), (8, 8, 8)),
        ((31, 9, 10), (5, 7, 9)),
        ((3, 5, 20), (8, 8, 8)),
        ((1, 1, 1), (4, 4, 4)),
        ((5, 17, 11), (8, 6)),
    ],
)
@pytest.mark.parametrize("slab_bytes", [2**26, 700])
def test_sums_in_a_file_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple, patch: tuple, slab_bytes: int
) -> None:
    monkeypatch.setattr(sliding_window, "SLAB_BYTES", slab_bytes)
    image = np.random.default_rng(5).normal(size=(2, *shape)).astype(np.float32)
    network = network_for(patch)
    in_memory = stream(image, network, patch, 0.5)
    in_a_file = stream(image, network, patch, 0.5, accumulator=Accumulator(CPU, folder=tmp_path))
    assert [slab.shape for slab in in_memory] == [slab.shape for slab in in_a_file]
    assert all(torch.equal(one, other) for one, other in zip(in_memory, in_a_file, strict=True))
    assert not [*tmp_path.iterdir()]


def test_the_file_of_sums_has_no_name_and_goes_with_the_prediction(tmp_path: Path) -> None:
    def mapped() -> bool:
        maps = Path("/proc/self/maps")
        return maps.is_file() and str(tmp_path) in maps.read_text()

    image = np.random.default_rng(6).normal(size=(1, 40, 12, 12)).astype(np.float32)
    slabs = stream_logits(
        torch.from_numpy(image),
        lambda tiles: tiles,
        patch_size=(8, 8, 8),
        n_outputs=1,
        step=0.5,
        device=CPU,
        accumulator=Accumulator(CPU, folder=tmp_path),
    )
    first = next(slabs)
    assert mapped() == Path("/proc/self/maps").is_file()  # it is there
    assert not [*tmp_path.iterdir()]
    rest = [*slabs]
    del slabs
    gc.collect()
    assert not mapped()
    assert not [*tmp_path.iterdir()]
    # what was handed out does not lie in the file
    np.testing.assert_allclose(torch.cat([first, *rest], dim=1).numpy(), image, atol=1e-5)


def test_a_prediction_that_is_broken_off_leaves_no_file(tmp_path: Path) -> None:
    image = np.zeros((1, 20, 9, 9), dtype=np.float32)
    image[0, 17, 4, 4] = np.nan
    with pytest.raises(DeviceError, match="not finite"):
        stream(image, lambda tiles: tiles, (8, 8, 8), 0.5, outputs=1, accumulator=Accumulator(CPU, folder=tmp_path))
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no such call on this system")
def test_a_full_disk_is_an_error_before_the_first_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def full(file: int, start: int, length: int) -> None:
        asked.append((start, length))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    tiles: list[int] = []
    image = np.zeros((1, 20, 9, 12), dtype=np.float32)
    with pytest.raises(OSError, match="No space left"):
        stream(image, tiles.append, (8, 8, 8), 0.5, outputs=3, accumulator=Accumulator(CPU, folder=tmp_path))  # type: ignore[arg-type]
    assert asked == [(0, 4 * 3 * 8 * 9 * 12)]  # room for every sum
    assert tiles == []
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        Accumulator(CPU, folder=tmp_path / "none").zeros((1, 2, 3, 4))


def test_sums_survive_when_pages_are_given_back(tmp_path: Path) -> None:
    accumulator = Accumulator(CPU, folder=tmp_path)
    sums = accumulator.zeros((3, 5, 70, 90))
    assert sums.dtype == torch.float32
    assert sums.shape == (3, 5, 70, 90)
    assert not sums.any()
    expected = torch.zeros(3, 5, 70, 90)
    for seed in range(3):
        more = torch.randn(3, 5, 70, 90, generator=torch.Generator().manual_seed(seed))
        sums += more
        expected += more
        accumulator.let_go()
    assert torch.equal(sums, expected)


def with_air(*, seed: int = 7) -> np.ndarray:
    """Two channels around which there is air: each channel has a value of its own there."""
    image = np.empty((2, 30, 14, 13), dtype=np.float32)
    image[0], image[1] = -1.5, 0.25
    image[:, 13:19, 3:6, 6:13] = np.random.default_rng(seed).normal(size=(2, 6, 3, 7))
    return image


def counting(network: Network) -> tuple[Network, list[tuple[float, ...]], list[int]]:
    """The network; the values of each empty tile that it sees; how many tiles it sees that are not empty."""
    empty: list[tuple[float, ...]] = []
    other: list[int] = []

    def answer(tiles: torch.Tensor) -> torch.Tensor:
        for tile in tiles:
            flat = tile.flatten(1)
            if bool((flat.min(dim=1).values == flat.max(dim=1).values).all()):
                empty.append(tuple(flat[:, 0].tolist()))
            else:
                other.append(1)
        return network(tiles)

    return answer, empty, other


def n_tiles(image: np.ndarray, patch: tuple[int, ...], step: float) -> tuple[int, int]:
    """Tiles in all, and those of one value per channel (for images larger than the patch)."""
    corners = []
    for n, p in zip(image.shape[1:], (1, *patch)[-3:], strict=True):
        tiles = ceil((n - p) / (step * p)) + 1
        corners.append([round(i * (n - p) / max(1, tiles - 1)) for i in range(tiles)])
    boxes = [
        tuple(slice(c, c + p) for c, p in zip(corner, (1, *patch)[-3:], strict=True)) for corner in product(*corners)
    ]
    empty = sum(bool(np.all(np.ptp(image[(slice(None), *box)], axis=(1, 2, 3)) == 0)) for box in boxes)
    return len(boxes), empty


@pytest.mark.parametrize("at_once", [1, 4, 1000])
@pytest.mark.parametrize(("patch", "step"), [((8, 8, 8), 0.5), ((8, 6), 1.0), ((6, 10, 4), 0.7)])
def test_empty_tiles_are_shown_once(patch: tuple, step: float, at_once: int) -> None:
    image, network = with_air(), network_for(patch)
    answer, empty, other = counting(network)
    logits = torch.cat(stream(image, answer, patch, step, tiles_at_once=at_once), dim=1)
    total, without = n_tiles(image, patch, step)
    assert without > 5
    assert empty == [(-1.5, 0.25)]
    assert len(other) == total - without
    np.testing.assert_allclose(logits.numpy(), whole_volume(image, network, patch, step), atol=2e-5)


def test_every_value_of_empty_tiles_has_an_answer_of_its_own() -> None:
    image, patch = with_air(), (8, 8, 8)
    image[:, 19:] = np.array([0.25, -1.5], dtype=np.float32)[:, None, None, None]  # as above, exchanged
    network = network_for(patch)
    answer, empty, other = counting(network)
    logits = torch.cat(stream(image, answer, patch, 0.5, tiles_at_once=3), dim=1)
    total, without = n_tiles(image, patch, 0.5)
    assert empty == [(-1.5, 0.25), (0.25, -1.5)]
    assert len(other) == total - without
    np.testing.assert_allclose(logits.numpy(), whole_volume(image, network, patch, 0.5), atol=2e-5)


@pytest.mark.parametrize("at_once", [1, 4])
def test_values_that_take_turns_are_not_confused(at_once: int) -> None:
    image = np.zeros((2, 6, 5, 20), dtype=np.float32)
    image[:, :, :, 6:13] = 1
    image[1, :, :, 13:] = 2
    network = network_for((4, 4, 4))
    answer, empty, _ = counting(network)
    logits = torch.cat(stream(image, answer, (4, 4, 4), 0.3, tiles_at_once=at_once), dim=1)
    assert {*empty} == {(0, 0), (1, 1), (0, 2)}
    np.testing.assert_allclose(logits.numpy(), whole_volume(image, network, (4, 4, 4), 0.3), atol=2e-5)


def test_one_channel_that_is_empty_makes_no_empty_tile() -> None:
    image = with_air()
    image[1] = np.random.default_rng(8).normal(size=image.shape[1:])
    network = network_for((8, 8, 8))
    answer, empty, other = counting(network)
    logits = torch.cat(stream(image, answer, (8, 8, 8), 0.5), dim=1)
    assert empty == []
    assert len(other) == n_tiles(image, (8, 8, 8), 0.5)[0]
    np.testing.assert_allclose(logits.numpy(), whole_volume(image, network, (8, 8, 8), 0.5), atol=2e-5)


@pytest.mark.parametrize(("too_small", "at_once"), [(0, 1), (1, 1), (1, 1000)])
def test_large_answers_are_not_remembered(monkeypatch: pytest.MonkeyPatch, too_small: int, at_once: int) -> None:
    patch = (8, 8, 8)
    monkeypatch.setattr(sliding_window, "ANSWER_BYTES", 4 * 3 * prod(patch) - too_small)
    image, network = with_air(), network_for(patch)
    answer, empty, _ = counting(network)
    logits = torch.cat(stream(image, answer, patch, 0.5, tiles_at_once=at_once), dim=1)
    rows = ceil((30 - 8) / 4) + 1
    each = n_tiles(image, patch, 0.5)[1] if at_once == 1 else rows  # each tile, or once in each row of tiles
    assert len(empty) == (each if too_small else 1)
    np.testing.assert_allclose(logits.numpy(), whole_volume(image, network, patch, 0.5), atol=2e-5)


def test_nothing_is_remembered_from_one_image_to_the_next() -> None:
    """Networks may change in between."""
    image = np.ones((1, 12, 8, 8), dtype=np.float32)
    for factor in (2.0, 3.0):
        logits = torch.cat(stream(image, lambda tiles, f=factor: tiles * f, (8, 8, 8), 0.5, outputs=1), dim=1)
        np.testing.assert_allclose(logits.numpy(), image * factor, atol=1e-5)


def test_an_image_without_any_number_is_refused() -> None:
    with pytest.raises(DeviceError, match="not finite"):
        stream(np.full((1, 9, 9, 9), np.nan, dtype=np.float32), lambda tiles: tiles, (8, 8, 8), 0.5, outputs=1)


GROWTH = """
import sys
from pathlib import Path
import torch
from autoseg.prediction import sliding_window
from autoseg.prediction.sliding_window import Accumulator, stream_logits

def high_water_mark():
    rows = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["VmHWM"].split()[0]) * 1024

sliding_window.SLAB_BYTES = 2**23
outputs, patch, device = 12, (16, 48, 128), torch.device("cpu")
torch.set_num_threads(2)
image = torch.rand(1, 20, 480, 512)
before = high_water_mark()
for folder in (Path(sys.argv[1]), None):
    slabs = stream_logits(
        image,
        lambda tiles: tiles.expand(-1, outputs, -1, -1, -1),
        patch_size=patch,
        n_outputs=outputs,
        step=1.0,
        device=device,
        tiles_at_once=1,
        accumulator=Accumulator(device, folder=folder),
    )
    row = 0
    for slab in slabs:
        assert (slab[-1] - image[0, row : row + slab.shape[1]]).abs().max() < 1e-4
        row += slab.shape[1]
    assert row == 20
    print(high_water_mark() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_sums_in_a_file_take_little_memory(tmp_path: Path) -> None:
    accumulator = 4 * 12 * 16 * 480 * 512
    code = [sys.executable, "-c", GROWTH, str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    in_a_file, in_memory = map(int, done.stdout.split())
    print(f"sums of {accumulator / 1e6:.0f} MB: {in_memory / 1e6:.0f} MB in memory, {in_a_file / 1e6:.0f} MB in a file")
    assert in_memory > accumulator
    assert in_a_file < accumulator / 2
