"""The arithmetic of a prediction's memory: by hand, against what is really allocated, and its choice step by step."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.core.errors import DeviceError
from autoseg.core.plan import Plan
from autoseg.prediction import memory, sliding_window
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.memory import MemoryPlan, Stream, plan_memory, stream_of, torch_device_gb
from autoseg.prediction.sliding_window import Accumulator, stream_logits

CPU = torch.device("cpu")
NATIVE = (100, 200, 300)
# Three outputs: rows of 0.72 MB are resampled in chunks of 64 MiB, three at a time; a stream keeps 0.2 GB.
BLOCKS = 3 * 2**26 / 1e9 + 0.2
LABELS = 8 * 6_000_000 / 1e9  # four times two bytes per voxel
IMAGES = LABELS + 0.05  # labels, and the image with its margin
LETTERS = {"background": 0, "a": 1, "b": 2, "c": 3}
STREAM = Stream(accumulator_gb=3.0, tile_gb=0.1, usual_tiles=8, kept_gb=0.2, padded_gb=0.05)


@pytest.fixture(autouse=True)
def known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 MiB, whatever is found to be fastest."""
    monkeypatch.setattr(memory, "CHUNK_BYTES", 2**26)


def plan(
    *,
    host_gb: float,
    device_gb: float | None = None,
    streams: tuple[Stream, ...] = (STREAM,),
    next_case_gb: float = 1.0,
    probabilities: bool = False,
) -> MemoryPlan:
    return plan_memory(
        streams,
        n_outputs=3,
        native_shape=NATIVE,
        next_case_gb=next_case_gb,
        host_gb=host_gb,
        device_gb=device_gb,
        probabilities=probabilities,
    )


@pytest.mark.parametrize("device_gb", [None, 50.0])
def test_probabilities_take_blocks_of_their_own(device_gb: float | None) -> None:
    without, with_them = (plan(host_gb=50, device_gb=device_gb, probabilities=wanted) for wanted in (False, True))
    block = max(2**26, 4 * 3 * NATIVE[1] * NATIVE[2]) / 1e9
    host = block + 3 * (2**25 / 1e9 + block / 4)
    on_device = with_them.device_gb - without.device_gb
    assert on_device == pytest.approx(0 if device_gb is None else block)
    assert with_them.host_gb - without.host_gb == pytest.approx(host + (block if device_gb is None else 0))


def ensemble_of(made: Plan) -> Ensemble:
    return Ensemble(
        plan=made,
        configuration=made.configuration("small"),
        networks=(torch.nn.Identity(),),
        folds=("0",),
        device=CPU,
        precision="float32",
    )


def choices(plans: list[MemoryPlan]) -> list[tuple[str, int, bool]]:
    """What was chosen one after the other, without repetition."""
    ways = [(one.place, one.tiles_at_once, one.read_ahead) for one in plans]
    return ways[:1] + [way for before, way in pairwise(ways) if way != before]


def test_with_much_memory_nothing_is_given_up() -> None:
    found = plan(host_gb=1000)
    assert (found.place, found.tiles_at_once, found.read_ahead) == ("memory", 8, True)
    assert found.host_gb == pytest.approx(IMAGES + 1.0 + 3.0 + BLOCKS + 8 * 0.1)
    assert found.device_gb == 0
    found = plan(host_gb=1000, device_gb=1000)
    assert (found.place, found.tiles_at_once, found.read_ahead) == ("device", 8, True)
    assert found.host_gb == pytest.approx(IMAGES + 1.0)
    assert found.device_gb == pytest.approx(3.0 + BLOCKS + 8 * 0.1)


def test_what_is_given_up_and_in_which_order() -> None:
    # Each further step saves more than all before it, so every one is seen on the way down.
    plans = [plan(host_gb=limit) for limit in np.arange(6.5, 0.68, -0.01)]
    tiles = (8, 4, 2, 1)
    assert choices(plans) == [
        (place, n, ahead) for place in ("memory", "file") for ahead in (True, False) for n in tiles
    ]
    with pytest.raises(DeviceError):
        plan(host_gb=(IMAGES + BLOCKS + 0.1) / 0.9 - 1e-6)
    assert plan(host_gb=(IMAGES + BLOCKS + 0.1) / 0.9 + 1e-6).host_gb == pytest.approx(IMAGES + BLOCKS + 0.1)


def test_on_the_way_down_tiles_become_few_before_sums_leave_the_gpu() -> None:
    plans = [plan(host_gb=100, device_gb=limit) for limit in np.arange(5, 0.56, -0.01)]
    assert choices(plans) == [(place, n, True) for place in ("device", "memory") for n in (8, 4, 2, 1)]
    plans = [plan(host_gb=3, device_gb=limit) for limit in np.arange(5, 0.56, -0.01)]
    assert choices(plans) == [(place, n, True) for place in ("device", "file") for n in (8, 4, 2, 1)]


@pytest.mark.parametrize(
    ("host_gb", "device_gb", "way"),
    [
        (1.6, 1.31, ("device", 8, True)),  # all sums and eight tiles on the GPU
        (0.9, 1.31, ("device", 8, False)),
        (1.6, 0.61, ("device", 1, True)),
        (0.9, 0.61, ("device", 1, False)),  # rather than eight tiles and sums in memory
        (1.6, 0.59, ("memory", 4, True)),
        (1.4, 0.59, ("memory", 4, False)),  # rather than reading ahead and sums in a file
        (0.4, 0.59, ("file", 4, False)),
        (0.4, 0.11, ("file", 1, False)),
    ],
)
def test_the_order_where_a_gpu_and_main_memory_are_scarce(host_gb: float, device_gb: float, way: tuple) -> None:
    """Sums take 0.5 GB, the next case 1 GB, a tile 0.1 GB; the limits are beyond what is always needed."""
    found = plan(
        host_gb=(IMAGES + host_gb) / 0.9,
        device_gb=(BLOCKS + device_gb) / 0.9,
        streams=(replace(STREAM, accumulator_gb=0.5),),
    )
    assert (found.place, found.tiles_at_once, found.read_ahead) == way


def test_sums_move_from_the_gpu_to_memory_to_a_file() -> None:
    one_tile = (BLOCKS + 0.1) / 0.9
    assert plan(host_gb=100, device_gb=one_tile + 3.0 / 0.9 + 1e-6).place == "device"
    in_memory = plan(host_gb=100, device_gb=one_tile + 2.9)
    assert (in_memory.place, in_memory.tiles_at_once, in_memory.read_ahead) == ("memory", 8, True)
    assert in_memory.host_gb == pytest.approx(IMAGES + 1.0 + 3.0)
    assert in_memory.device_gb == pytest.approx(BLOCKS + 0.8)
    assert plan(host_gb=4.0, device_gb=one_tile + 2.9).read_ahead is False
    in_file = plan(host_gb=2.0, device_gb=one_tile + 1e-6)
    assert (in_file.place, in_file.tiles_at_once, in_file.read_ahead) == ("file", 1, True)
    assert in_file.host_gb == pytest.approx(IMAGES + 1.0)
    with pytest.raises(DeviceError):
        plan(host_gb=100, device_gb=one_tile - 1e-6)
    with pytest.raises(DeviceError):
        plan(host_gb=IMAGES / 0.9 - 1e-6, device_gb=100)
    assert plan(host_gb=IMAGES / 0.9 + 1e-6, device_gb=100).read_ahead is False


def test_the_next_case_is_read_ahead_only_where_main_memory_has_room() -> None:
    for device_gb in (None, 1000.0):
        assert plan(host_gb=1000, device_gb=device_gb, next_case_gb=2000).read_ahead is False
        assert plan(host_gb=1000, device_gb=device_gb, next_case_gb=800).read_ahead is True


def test_rows_larger_than_a_chunk_count_as_they_are() -> None:
    streams = [
        Stream(accumulator_gb=0.0, tile_gb=0.0, usual_tiles=1, kept_gb=kept, padded_gb=padded)
        for kept, padded in ((0.25, 0.125), (0.5, 0.0625))
    ]
    facts = {"n_outputs": 118, "native_shape": (5, 512, 512), "next_case_gb": 0, "host_gb": 10}
    # three for each of the two models; two to stack, two to average
    blocks, images = (6 + 4) * 118 * 512 * 512 * 4 + 0.75e9, 8 * 5 * 512 * 512 + 0.1875e9
    found = plan_memory(streams, **facts, device_gb=None)
    assert found.host_gb * 1e9 == pytest.approx(blocks + images)
    found = plan_memory(streams, **facts, device_gb=10)
    assert found.device_gb * 1e9 == pytest.approx(blocks)
    assert found.host_gb * 1e9 == pytest.approx(images)


@pytest.mark.parametrize(("usual", "counts"), [(1, [1]), (2, [2, 1]), (6, [6, 3, 1]), (7, [7, 3, 1])])
def test_tiles_are_halved(usual: int, counts: list[int]) -> None:
    streams = (replace(STREAM, accumulator_gb=0.0, usual_tiles=usual),)
    fewest = (IMAGES + BLOCKS + 0.1) / 0.9 + 1e-6
    plans = [plan(host_gb=limit, streams=streams, next_case_gb=0) for limit in np.arange(4, fewest, -0.01)]
    assert [n for _, n, _ in choices(plans)] == counts


@pytest.mark.parametrize("device_gb", [None, 100.0])
def test_a_stream_sees_no_more_tiles_than_its_own(device_gb: float | None) -> None:
    """Eight tiles at a time are two for the second model, of 1 GB each."""
    many = Stream(accumulator_gb=0.0, tile_gb=0.1, usual_tiles=8)
    few = Stream(accumulator_gb=0.0, tile_gb=1.0, usual_tiles=2)
    rows = (6 + 4) * 2**26 / 1e9  # three for each of two models, two to stack, two to average
    for first, second in ((many, few), (few, many)):
        found = plan(host_gb=100, device_gb=device_gb, streams=(first, second), next_case_gb=0)
        assert found.tiles_at_once == 8
        assert found.host_gb + found.device_gb == pytest.approx(LABELS + rows + 2.0)


def test_the_stream_that_holds_most_decides_how_many_tiles_fit() -> None:
    """Eight tiles take 2.4 GB (the first model's), four 2 GB (two of the second), two as much, one 1 GB."""
    many = Stream(accumulator_gb=0.0, tile_gb=0.3, usual_tiles=8)
    few = Stream(accumulator_gb=0.0, tile_gb=1.0, usual_tiles=2)
    rows = (6 + 4) * 2**26 / 1e9  # three for each of two models, two to stack, two to average
    for tiles_gb, n in ((2.41, 8), (2.39, 4), (2.01, 4), (1.99, 1), (1.01, 1)):
        for streams in ((many, few), (few, many)):
            on_cpu = plan(host_gb=(LABELS + rows + tiles_gb) / 0.9, streams=streams, next_case_gb=0)
            on_gpu = plan(host_gb=100, device_gb=(rows + tiles_gb) / 0.9, streams=streams, next_case_gb=0)
            assert on_cpu.tiles_at_once == on_gpu.tiles_at_once == n
    with pytest.raises(DeviceError):
        plan(host_gb=(LABELS + rows + 0.99) / 0.9, streams=(many, few), next_case_gb=0)


@pytest.mark.parametrize(
    ("host_gb", "device_gb", "words"),
    [
        (
            10,
            None,
            "one tile at a time needs 10.5 GB of memory, and 9.0 GB may be used; "
            "close other programs or raise --max_memory_gb, by 1.7 GB, or use a larger machine",
        ),
        (
            20,
            10,
            "one tile at a time needs 0.1 GB of memory and 10.4 GB on the GPU, "
            "and 18.0 GB may be used and 9.0 GB on the GPU; use a larger machine, or --device cpu",
        ),
    ],
)
def test_too_little_memory_is_told_with_numbers(host_gb: float, device_gb: float | None, words: str) -> None:
    """A share of what is free may be used."""
    with pytest.raises(DeviceError, match=re.escape(words)):
        plan(host_gb=host_gb, device_gb=device_gb, streams=(replace(STREAM, tile_gb=10.0),))


@pytest.mark.parametrize("host_gb", [-1.0, 0.0, 0.5])
def test_what_is_missing_is_enough_and_no_more(host_gb: float) -> None:
    """The process may hold more than --max_memory_gb before it begins."""
    with pytest.raises(DeviceError) as caught:
        plan(host_gb=host_gb)
    more = float(re.search(r"by (\S+) GB", str(caught.value))[1])
    plan(host_gb=host_gb + more)
    with pytest.raises(DeviceError):
        plan(host_gb=host_gb + more - 0.11)


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
any_stream = st.builds(
    Stream,
    accumulator_gb=gigabytes,
    tile_gb=st.floats(1e-3, 4),
    usual_tiles=st.integers(1, 70),
    kept_gb=st.floats(0, 2),
    padded_gb=st.floats(0, 2),
)
ROUNDING = 1e-9


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
    images = 8e-9 * native[0] * native[1] * native[2] + sum(stream.padded_gb for stream in streams)
    n_blocks = {1: 3, 2: 10, 3: 14}[len(streams)]
    blocks = n_blocks * 1e-9 * max(2**26, 4 * n_outputs * native[1] * native[2])
    blocks += sum(stream.kept_gb for stream in streams)
    sums = sum(stream.accumulator_gb for stream in streams)

    def needs(place: str, n: int, ahead: bool) -> tuple[float, float]:
        host = images + (next_case_gb if ahead else 0) + (sums if place == "memory" else 0)
        device = blocks + max(min(n, stream.usual_tiles) * stream.tile_gb for stream in streams)
        device += sums if place == "device" else 0
        return (host + device, 0.0) if device_gb is None else (host, device)

    def fits(way: tuple[str, int, bool], factor: float) -> bool:
        host, device = needs(*way)
        return host <= 0.9 * host_gb * factor and device <= 0.9 * (device_gb or 0) * factor

    facts = {
        "n_outputs": n_outputs,
        "native_shape": native,
        "next_case_gb": next_case_gb,
        "host_gb": host_gb,
        "device_gb": device_gb,
    }
    try:
        found = plan_memory(streams, **facts)
    except DeviceError:
        assert not fits(("file", 1, False), 1 - ROUNDING)
        return
    assert fits(("file", 1, False), 1 + ROUNDING)
    assert found.host_gb <= 0.9 * host_gb
    assert found.device_gb <= 0.9 * (device_gb or 0)
    chosen = (found.place, found.tiles_at_once, found.read_ahead)
    assert (found.host_gb, found.device_gb) == pytest.approx(needs(*chosen))
    # nothing better fits: more tiles at a time, else reading ahead, else sums in a faster place
    most = max(stream.usual_tiles for stream in streams)
    tiles = [n for n in (most >> shift for shift in range(8)) if n]
    places = ["memory", "file"] if device_gb is None else ["device", "memory", "file"]
    ways = [(place, n, ahead) for place in places for ahead in (True, False) for n in tiles]
    assert not any(fits(way, 1 - ROUNDING) for way in ways[: ways.index(chosen)])
    more = {**facts, "host_gb": host_gb * 2, "device_gb": None if device_gb is None else device_gb * 2}
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
def test_accumulator_margin_and_slabs_are_as_large_as_foretold(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, shape: tuple, patch: tuple
) -> None:
    for module in (memory, sliding_window):
        monkeypatch.setattr(module, "SLAB_BYTES", 3000)
    found = stream_of(ensemble_of(make_plan(patch_size=patch, labels=LETTERS)), shape)
    sizes: list[int] = []
    padded: list[int] = []
    zeros, pad = Accumulator.zeros, torch.nn.functional.pad

    def spied(self: Accumulator, size: tuple[int, ...]) -> torch.Tensor:
        tensor = zeros(self, size)
        sizes.append(tensor.nbytes)
        return tensor

    def spied_pad(image: torch.Tensor, margins: list[int]) -> torch.Tensor:
        padded.append(pad(image, margins).nbytes)
        return pad(image, margins)

    monkeypatch.setattr(Accumulator, "zeros", spied)
    monkeypatch.setattr(torch.nn.functional, "pad", spied_pad)
    answers = stream_logits(
        torch.zeros(1, *shape),
        lambda tiles: torch.zeros(len(tiles), 4, *tiles.shape[2:]),
        patch_size=patch,
        n_outputs=4,
        step=0.5,
        device=CPU,
    )
    slabs = [(slab.shape[1], slab.nbytes) for slab in answers]
    assert sum(rows for rows, _ in slabs) == shape[0]
    assert [round(found.accumulator_gb * 1e9)] == sizes
    assert [round(found.padded_gb * 1e9)] == padded
    answer = 4 * 4 * np.prod(patch)
    assert max(n_bytes for _, n_bytes in slabs) <= (found.kept_gb * 1e9 - answer) / 2 + 1e-3
    assert found.tile_gb > 4e-9 * 4 * np.prod(patch)
    assert found.usual_tiles == 2**18 // np.prod(patch)


@pytest.mark.parametrize(("slab_bytes", "slab"), [(1000, 2448), (10_000, 10_000)])
@pytest.mark.parametrize(("answer_bytes", "answer"), [(1000, 1000), (10_000, 4096)])
def test_two_slabs_and_the_answer_to_an_empty_tile_are_kept(
    make_plan: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    slab_bytes: int,
    slab: int,
    answer_bytes: int,
    answer: int,
) -> None:
    """A row of four outputs takes 4 x 4 x 17 x 9 bytes, an answer 4 x 4 x 8 x 8 x 4."""
    monkeypatch.setattr(memory, "SLAB_BYTES", slab_bytes)
    monkeypatch.setattr(memory, "ANSWER_BYTES", answer_bytes)
    found = stream_of(ensemble_of(make_plan(patch_size=(8, 8, 4), labels=LETTERS)), (20, 17, 9))
    assert found.kept_gb * 1e9 == pytest.approx(2 * slab + answer)


def test_every_channel_of_the_image_has_its_margin(make_plan: Callable[..., Plan]) -> None:
    made = make_plan(patch_size=(8, 8, 8), normalization=("none", "none", "none"))
    assert stream_of(ensemble_of(made), (3, 5, 20)).padded_gb * 1e9 == pytest.approx(4 * 3 * 8 * 8 * 20)


@pytest.mark.parametrize(
    ("labels", "n_earlier"),
    [(LETTERS, 3), ({"background": 0, "left": 4, "right": 9}, 2), ({"background": 0, "all": [1, 2, 5], "core": 5}, 3)],
    ids=["letters", "gaps", "regions"],
)
@pytest.mark.parametrize("patch", [(8, 8, 4), (8, 6)], ids=str)
def test_the_networks_of_a_cascade_see_a_channel_per_earlier_label(
    make_plan: Callable[..., Plan], labels: dict, n_earlier: int, patch: tuple
) -> None:
    """Each of them lies in memory three times, in float32; neither background nor regions have one."""
    order = [1, 5] if "core" in labels else []
    made = make_plan(patch_size=patch, labels=labels, regions_class_order=order, normalization=("none", "none"))
    first = ensemble_of(made)
    alone, second = stream_of(first, (20, 17, 9)), stream_of(replace(first, previous=first), (20, 17, 9))
    assert (second.tile_gb - alone.tile_gb) * 1e9 == pytest.approx(3 * 4 * n_earlier * np.prod(patch))
    assert second.accumulator_gb == alone.accumulator_gb
    assert second.usual_tiles == alone.usual_tiles
    assert second.kept_gb == alone.kept_gb


def test_what_pytorch_holds_in_reserve_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_device_gb(CPU) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5_000_000_000, 24_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000_000_000)
    assert torch_device_gb(torch.device("cuda", 0)) == pytest.approx(7)
    assert memory.torch_device_gb(torch.device("cpu")) is None
