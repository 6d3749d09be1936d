"""The arithmetic of a prediction's memory: by hand, against what is really allocated, and its choice step by step."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.core.errors import DeviceError
from autoseg.core.plan import Plan
from autoseg.prediction import memory
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.memory import MemoryPlan, Stream, plan_memory, stream_of, torch_device_gb
from autoseg.prediction.sliding_window import Accumulator, stream_logits

CPU = torch.device("cpu")
NATIVE = (100, 200, 300)
# Three outputs: rows of 0.72 MB are resampled in chunks of 64 MiB, four at a time; two slabs of 64 MiB are finished.
BLOCKS = 6 * 2**26 / 1e9
LABELS = 8 * 6_000_000 / 1e9  # four times two bytes per voxel
STREAM = Stream(accumulator_gb=3.0, tile_gb=0.1, usual_tiles=8)


@pytest.fixture(autouse=True)
def known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and slabs of 64 MiB, whatever is found to be fastest."""
    monkeypatch.setattr(memory, "CHUNK_BYTES", 2**26)
    monkeypatch.setattr(memory, "SLAB_BYTES", 2**26)


def plan(
    *,
    host_gb: float,
    device_gb: float | None = None,
    streams: tuple[Stream, ...] = (STREAM,),
    next_case_gb: float = 1.0,
) -> MemoryPlan:
    return plan_memory(
        streams, n_outputs=3, native_shape=NATIVE, next_case_gb=next_case_gb, host_gb=host_gb, device_gb=device_gb
    )


def choices(plans: list[MemoryPlan]) -> list[tuple[str, int, bool]]:
    """What was chosen one after the other, without repetition."""
    ways = [(one.place, one.tiles_at_once, one.read_ahead) for one in plans]
    return ways[:1] + [way for before, way in pairwise(ways) if way != before]


def test_with_much_memory_nothing_is_given_up() -> None:
    found = plan(host_gb=1000)
    assert (found.place, found.tiles_at_once, found.read_ahead) == ("memory", 8, True)
    assert found.host_gb == pytest.approx(LABELS + 1.0 + 3.0 + BLOCKS + 8 * 0.1)
    assert found.device_gb == 0
    found = plan(host_gb=1000, device_gb=1000)
    assert (found.place, found.tiles_at_once, found.read_ahead) == ("device", 8, True)
    assert found.host_gb == pytest.approx(LABELS + 1.0)
    assert found.device_gb == pytest.approx(3.0 + BLOCKS + 8 * 0.1)


def test_what_is_given_up_and_in_which_order() -> None:
    # Each further step saves more than all before it, so every one is seen on the way down.
    plans = [plan(host_gb=limit) for limit in np.arange(6.5, 0.7, -0.01)]
    tiles = (8, 4, 2, 1)
    assert choices(plans) == [
        (place, n, ahead) for place in ("memory", "file") for ahead in (True, False) for n in tiles
    ]
    with pytest.raises(DeviceError):
        plan(host_gb=(LABELS + BLOCKS + 0.1) / 0.9 - 1e-6)
    assert plan(host_gb=(LABELS + BLOCKS + 0.1) / 0.9 + 1e-6).host_gb == pytest.approx(LABELS + BLOCKS + 0.1)


def test_sums_move_from_the_gpu_to_memory_to_a_file() -> None:
    one_tile = (BLOCKS + 0.1) / 0.9
    assert plan(host_gb=100, device_gb=one_tile + 3.0 / 0.9 + 1e-6).place == "device"
    in_memory = plan(host_gb=100, device_gb=one_tile + 2.9)
    assert (in_memory.place, in_memory.tiles_at_once, in_memory.read_ahead) == ("memory", 8, True)
    assert in_memory.host_gb == pytest.approx(LABELS + 1.0 + 3.0)
    assert in_memory.device_gb == pytest.approx(BLOCKS + 0.8)
    assert plan(host_gb=4.0, device_gb=one_tile + 2.9).read_ahead is False
    in_file = plan(host_gb=2.0, device_gb=one_tile + 1e-6)
    assert (in_file.place, in_file.tiles_at_once, in_file.read_ahead) == ("file", 1, True)
    assert in_file.host_gb == pytest.approx(LABELS + 1.0)
    with pytest.raises(DeviceError):
        plan(host_gb=100, device_gb=one_tile - 1e-6)
    with pytest.raises(DeviceError):
        plan(host_gb=LABELS, device_gb=100)


def test_the_next_case_is_read_ahead_only_where_main_memory_has_room() -> None:
    for device_gb in (None, 1000.0):
        assert plan(host_gb=1000, device_gb=device_gb, next_case_gb=2000).read_ahead is False
        assert plan(host_gb=1000, device_gb=device_gb, next_case_gb=800).read_ahead is True


def test_rows_larger_than_a_chunk_count_as_they_are() -> None:
    stream = Stream(accumulator_gb=0.0, tile_gb=0.0, usual_tiles=1)
    found = plan_memory(
        [stream, stream], n_outputs=118, native_shape=(5, 512, 512), next_case_gb=0, host_gb=10, device_gb=None
    )
    row = 118 * 512 * 512 * 4
    assert found.host_gb * 1e9 == pytest.approx(4 * row + 4 * 2**26 + 8 * 5 * 512 * 512)


@pytest.mark.parametrize(("usual", "counts"), [(1, [1]), (2, [2, 1]), (6, [6, 3, 1]), (7, [7, 3, 1])])
def test_tiles_are_halved(usual: int, counts: list[int]) -> None:
    streams = (Stream(accumulator_gb=0.0, tile_gb=0.1, usual_tiles=usual),)
    fewest = (LABELS + BLOCKS + 0.1) / 0.9 + 1e-6
    plans = [plan(host_gb=limit, streams=streams, next_case_gb=0) for limit in np.arange(4, fewest, -0.01)]
    assert [n for _, n, _ in choices(plans)] == counts


@pytest.mark.parametrize(
    ("host_gb", "device_gb", "words"),
    [
        (0.5, None, "one tile at a time needs 0.6 GB of memory, and 0.5 GB may be used"),
        (
            0.01,
            0.5,
            "one tile at a time needs 0.0 GB of memory and 0.5 GB on the GPU, "
            "and 0.0 GB may be used and 0.5 GB are free on the GPU",
        ),
    ],
)
def test_too_little_memory_is_told_with_numbers(host_gb: float, device_gb: float | None, words: str) -> None:
    with pytest.raises(DeviceError, match=re.escape(words)) as caught:
        plan(host_gb=host_gb, device_gb=device_gb)
    assert "--max_memory_gb" in str(caught.value)


def test_a_negative_allowance_is_refused() -> None:
    """The process may hold more than --max_memory_gb before it begins."""
    with pytest.raises(DeviceError):
        plan(host_gb=-1)


def test_a_plan_reads_as_a_sentence() -> None:
    assert str(MemoryPlan(place="memory", tiles_at_once=8, read_ahead=True, host_gb=5.25)) == (
        "sums of logits in memory, 8 tiles at a time, the next case is read meanwhile: about 5.2 GB"
    )
    assert str(MemoryPlan(place="file", tiles_at_once=1, read_ahead=False, host_gb=1, device_gb=2)) == (
        "sums of logits in a file on disk, 1 tile at a time, the next case is read afterwards: about 1.0 GB"
        " and 2.0 GB on the GPU"
    )
    assert "on the GPU, 2 tiles" in str(MemoryPlan(place="device", tiles_at_once=2, read_ahead=True, host_gb=1))


gigabytes = st.floats(0, 20)
any_stream = st.builds(Stream, accumulator_gb=gigabytes, tile_gb=st.floats(1e-3, 4), usual_tiles=st.integers(1, 70))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(any_stream, min_size=1, max_size=3),
    st.integers(1, 120),
    st.tuples(st.integers(1, 500), st.integers(1, 600), st.integers(1, 600)),
    gigabytes,
    gigabytes,
    st.none() | gigabytes,
)
def test_a_plan_never_exceeds_its_limits_and_is_there_whenever_one_tile_fits(
    streams: list[Stream],
    n_outputs: int,
    native: tuple[int, int, int],
    next_case_gb: float,
    host_gb: float,
    device_gb: float | None,
) -> None:
    labels = 8e-9 * native[0] * native[1] * native[2]
    blocks = 4e-9 * max(2**26, 4 * n_outputs * native[1] * native[2]) + len(streams) * 2e-9 * 2**26
    tile = max(stream.tile_gb for stream in streams)
    sums = sum(stream.accumulator_gb for stream in streams)
    facts = {
        "n_outputs": n_outputs,
        "native_shape": native,
        "next_case_gb": next_case_gb,
        "host_gb": host_gb,
        "device_gb": device_gb,
    }
    needs_host, needs_device = (labels + blocks + tile, 0.0) if device_gb is None else (labels, blocks + tile)
    fits = needs_host <= 0.9 * host_gb * (1 + 1e-12) and needs_device <= 0.9 * (device_gb or 0) * (1 + 1e-12)
    try:
        found = plan_memory(streams, **facts)
    except DeviceError:
        assert not fits
        return
    assert fits
    assert found.host_gb <= 0.9 * host_gb
    assert found.device_gb <= 0.9 * (device_gb or 0)
    assert 1 <= found.tiles_at_once <= max(stream.usual_tiles for stream in streams)
    working = blocks + found.tiles_at_once * tile
    expected_host = labels + (next_case_gb if found.read_ahead else 0) + (sums if found.place == "memory" else 0)
    if device_gb is None:
        assert found.place != "device"
        assert found.device_gb == 0
        expected_host += working
    else:
        assert found.device_gb == pytest.approx(working + (sums if found.place == "device" else 0))
    assert found.host_gb == pytest.approx(expected_host)
    more = {**facts, "host_gb": host_gb * 2, "device_gb": None if device_gb is None else device_gb * 2}
    places = ["device", "memory", "file"]
    assert places.index(plan_memory(streams, **more).place) <= places.index(found.place)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((20, 17, 9), (8, 8, 4)),
        ((3, 5, 20), (8, 8, 8)),
        ((1, 1, 1), (4, 2, 6)),
        ((5, 17, 11), (8, 6)),
        ((2, 3, 4), (8, 6)),
    ],
)
def test_the_accumulator_is_as_large_as_foretold(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, shape: tuple, patch: tuple
) -> None:
    made = make_plan(patch_size=patch, labels={"background": 0, "a": 1, "b": 2, "c": 3})
    ensemble = Ensemble(
        plan=made,
        configuration=made.configuration("small"),
        networks=(torch.nn.Identity(),),
        folds=("0",),
        device=CPU,
        precision="float32",
    )
    found = stream_of(ensemble, shape)
    sizes: list[int] = []
    zeros = Accumulator.zeros

    def spied(self: Accumulator, size: tuple[int, ...]) -> torch.Tensor:
        tensor = zeros(self, size)
        sizes.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(Accumulator, "zeros", spied)
    answers = stream_logits(
        torch.zeros(1, *shape),
        lambda tiles: torch.zeros(len(tiles), 4, *tiles.shape[2:]),
        patch_size=patch,
        n_outputs=4,
        step=0.5,
        device=CPU,
    )
    assert sum(slab.shape[1] for slab in answers) == shape[0]
    assert [round(found.accumulator_gb * 1e9)] == sizes
    assert found.tile_gb > 4e-9 * 4 * np.prod(patch)
    assert found.usual_tiles == 2**18 // np.prod(patch)


def test_what_pytorch_holds_in_reserve_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_device_gb(CPU) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5_000_000_000, 24_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000_000_000)
    assert torch_device_gb(torch.device("cuda", 0)) == pytest.approx(7)
    assert memory.torch_device_gb(torch.device("cpu")) is None
