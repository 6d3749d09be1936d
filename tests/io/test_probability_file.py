"""Probabilities on disk against an array that numpy fills: every orientation, any box, blocks of any size."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autoseg.core.errors import DataError
from autoseg.core.geometry import Orientation
from autoseg.core.labels import LabelScheme
from autoseg.io import probability_file
from autoseg.io.probability_file import LARGEST_ERROR, ProbabilityFile, open_probabilities

STORED = Orientation(axes=(0, 1, 2), flipped=(False, False, False))
ORIENTATIONS = [
    Orientation(axes=axes, flipped=flipped)
    for axes in itertools.permutations(range(3))
    for flipped in itertools.product((False, True), repeat=3)
]
FLOAT32_ROUNDING = 1e-7  # of a number up to 1
Box = tuple[tuple[int, int], ...]


def scheme_of(n_outputs: int, *, exclusive: bool) -> LabelScheme:
    """Labels with so many outputs: a background and labels, or regions."""
    if exclusive:
        return LabelScheme(declared={"background": 0, **{f"label {i}": 3 * i for i in range(1, n_outputs)}})
    regions = {f"region {i}": (i + 1, 99) for i in range(n_outputs)}
    return LabelScheme(declared={"background": 0, **regions}, regions_class_order=tuple(range(1, n_outputs + 1)))


def draw(n_outputs: int, size: Sequence[int], *, exclusive: bool, seed: int = 0) -> NDArray[np.float32]:
    """Probabilities (n_outputs, *size); many are exactly 0 or 1, as those of a sure network."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_outputs, *size)) * rng.choice([0.1, 3, 300], size=size)
    if not exclusive:
        return (1 / (1 + np.exp(-np.clip(logits, -700, 700)))).astype(np.float32)
    shares = np.exp(logits - logits.max(axis=0))
    return (shares / shares.sum(axis=0)).astype(np.float32)


def write(
    path: Path,
    inside: NDArray[np.float32],
    *,
    shape: Sequence[int],
    box: Box,
    orientation: Orientation = STORED,
    exclusive: bool = True,
    blocks: Sequence[int] = (),
) -> None:
    """Write rows in blocks of the given sizes, and what is left in one block."""
    with ProbabilityFile(
        path,
        scheme=scheme_of(len(inside), exclusive=exclusive),
        shape=tuple(shape),  # type: ignore[arg-type]
        box=box,
        orientation=orientation,
    ) as file:
        ends = [*itertools.accumulate(blocks), inside.shape[1]]
        for start, stop in zip([0, *ends], ends, strict=False):
            if start < stop:
                file.add(inside[:, start:stop])


def expected(
    inside: NDArray[np.float32], *, shape: Sequence[int], box: Box, orientation: Orientation, exclusive: bool
) -> NDArray[np.float32]:
    """The whole stored volume: numpy's own transpose and flip bring it to the axes of the rows."""
    whole = np.zeros((len(inside), *shape), dtype=np.float32)
    if exclusive:
        whole[0] = 1
    turned = whole.transpose(0, *(1 + axis for axis in orientation.axes))
    turned = np.flip(turned, [1 + k for k in range(3) if orientation.flipped[k]])
    turned[(slice(None), *(slice(start, stop) for start, stop in box))] = inside  # a view of `whole`
    return whole


def check(path: Path, truth: NDArray[np.float32]) -> None:
    stored = open_probabilities(path)
    found = stored.probabilities
    assert stored.scheme in [scheme_of(len(truth), exclusive=exclusive) for exclusive in (True, False)]
    assert stored.shape == truth.shape[1:]
    axis, thickness = stored.rows
    parts = [stored.block(axis, at, at + thickness) for at in range(0, stored.shape[axis], thickness)]
    assert np.array_equal(np.concatenate(parts, axis=1 + axis), np.rint(found * 255).astype(np.uint8))
    assert found.dtype == np.float32
    assert found.shape == truth.shape
    assert np.abs(found.astype(np.float64) - truth).max() <= LARGEST_ERROR + FLOAT32_ROUNDING
    for sure in (0, 1):
        assert np.all(found[truth == sure] == sure)
    # whole levels, so that nothing but the quantisation is lost
    np.testing.assert_allclose(found * 255, np.rint(found * 255), atol=1e-4)


def test_the_bound_is_half_a_level() -> None:
    assert LARGEST_ERROR == 0.5 / 255


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "independent"])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_rows_along_any_axis_in_any_direction(tmp_path: Path, orientation: Orientation, exclusive: bool) -> None:
    shape = (4, 5, 7)
    sizes = [shape[axis] for axis in orientation.axes]
    box = tuple((1, n - k) for n, k in zip(sizes, (0, 1, 2), strict=True))  # off centre, so that flips matter
    inside = draw(3, [stop - start for start, stop in box], exclusive=exclusive)
    facts = {"shape": shape, "box": box, "orientation": orientation, "exclusive": exclusive}
    write(tmp_path / "a.b2nd", inside, blocks=[1], **facts)
    check(tmp_path / "a.b2nd", expected(inside, **facts))


@st.composite
def volumes(draw: st.DrawFn) -> tuple[tuple[int, ...], Box, Orientation, list[int], int]:
    shape = draw(st.tuples(st.integers(1, 80), st.integers(1, 9), st.integers(1, 70)))
    orientation = draw(st.sampled_from(ORIENTATIONS))
    box = []
    for axis in orientation.axes:
        start = draw(st.integers(0, shape[axis] - 1))
        box.append((start, draw(st.integers(start + 1, shape[axis]))))
    blocks: list[int] = []
    while sum(blocks) < box[0][1] - box[0][0]:
        blocks.append(draw(st.integers(1, box[0][1] - box[0][0] - sum(blocks))))
    return shape, tuple(box), orientation, blocks[:-1], draw(st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(volumes(), st.booleans(), st.sampled_from([2**27, 700]))
def test_any_box_in_blocks_of_any_size(volume: tuple, exclusive: bool, slab_bytes: int) -> None:
    shape, box, orientation, blocks, n_outputs = volume
    inside = draw(n_outputs, [stop - start for start, stop in box], exclusive=exclusive)
    facts = {"shape": shape, "box": box, "orientation": orientation, "exclusive": exclusive}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(probability_file, "COLLECTED_BYTES", slab_bytes)  # few bytes: a row at a time
        write(Path(folder) / "a.b2nd", inside, blocks=blocks, **facts)
        check(Path(folder) / "a.b2nd", expected(inside, **facts))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_no_probability_moves_by_more_than_half_a_level(values: list[float]) -> None:
    inside = np.array(values, dtype=np.float32).reshape(1, 1, 1, -1)
    size = inside.shape[1:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.b2nd"
        write(path, inside, shape=size, box=tuple((0, n) for n in size), exclusive=False)
        found = open_probabilities(path).probabilities
    assert np.abs(found.astype(np.float64) - inside).max() <= 0.5 / 255 + FLOAT32_ROUNDING


def test_every_level_is_kept_and_the_halves_between_go_to_a_neighbour(tmp_path: Path) -> None:
    levels = np.arange(511) / 510
    inside = np.broadcast_to(levels.astype(np.float32), (1, 1, 2, 511)).copy()
    write(tmp_path / "a.b2nd", inside, shape=(1, 2, 511), box=((0, 1), (0, 2), (0, 511)), exclusive=False)
    found = open_probabilities(tmp_path / "a.b2nd").probabilities
    np.testing.assert_allclose(found[0, 0, 0, ::2], levels[::2], atol=FLOAT32_ROUNDING)
    assert np.abs(found[0, 0, 1] - levels).max() == pytest.approx(0.5 / 255, abs=1e-6)


@pytest.mark.parametrize("exclusive", [True, False])
def test_beyond_the_box_is_background(tmp_path: Path, exclusive: bool) -> None:
    box = ((1, 2), (0, 3), (2, 4))
    inside = np.full((3, 1, 3, 2), 0.4, dtype=np.float32)
    write(tmp_path / "a.b2nd", inside, shape=(3, 3, 4), box=box, exclusive=exclusive)
    found = open_probabilities(tmp_path / "a.b2nd").probabilities
    outside = np.ones((3, 3, 4), dtype=bool)
    outside[1:2, 0:3, 2:4] = False
    assert np.all(found[0][outside] == (1 if exclusive else 0))
    assert np.all(found[1:, outside] == 0)
    assert np.all(found[:, ~outside] == np.float32(0.4))  # 102 / 255


def test_118_outputs_with_their_names(tmp_path: Path) -> None:
    scheme = LabelScheme(declared={"background": 0, **{f"Wirbel {i}: ä/ö, 脊椎": 300 - i for i in range(117)}})
    inside = draw(118, (5, 6, 7), exclusive=True)
    orientation = Orientation(axes=(2, 0, 1), flipped=(True, False, True))
    box = ((2, 7), (0, 6), (1, 8))
    with ProbabilityFile(tmp_path / "a.b2nd", scheme=scheme, shape=(6, 9, 9), box=box, orientation=orientation) as file:
        for row in range(5):
            file.add(inside[:, row : row + 1])
    stored = open_probabilities(tmp_path / "a.b2nd")
    assert stored.scheme == scheme
    found = stored.probabilities
    truth = expected(inside, shape=(6, 9, 9), box=box, orientation=orientation, exclusive=True)
    assert np.abs(found - truth).max() <= LARGEST_ERROR + FLOAT32_ROUNDING
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=118 * LARGEST_ERROR)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, failure: type[BaseException]) -> None:
    inside = draw(2, (40, 3, 4), exclusive=True)
    box = ((0, 40), (0, 3), (0, 4))

    def break_off() -> None:
        with ProbabilityFile(
            tmp_path / "a.b2nd", scheme=scheme_of(2, exclusive=True), shape=(40, 3, 4), box=box, orientation=STORED
        ) as file:
            file.add(inside[:, :35])
            assert len([*tmp_path.iterdir()]) == 1
            raise failure

    with pytest.raises(failure):
        break_off()
    assert not [*tmp_path.iterdir()]


def test_a_failure_keeps_the_file_from_before(tmp_path: Path) -> None:
    facts = {"shape": (2, 3, 4), "box": ((0, 2), (0, 3), (0, 4))}
    inside = draw(2, (2, 3, 4), exclusive=True)
    write(tmp_path / "a.b2nd", inside, **facts)
    before = (tmp_path / "a.b2nd").read_bytes()
    with pytest.raises(AssertionError, match="rows are missing"):
        write(tmp_path / "a.b2nd", inside[:, :1], **facts)
    assert [path.name for path in tmp_path.iterdir()] == ["a.b2nd"]
    assert (tmp_path / "a.b2nd").read_bytes() == before
    write(tmp_path / "a.b2nd", inside[::-1], **facts)
    check(tmp_path / "a.b2nd", inside[::-1])


def test_missing_rows_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="rows are missing"):
        write(tmp_path / "a.b2nd", draw(2, (3, 3, 4), exclusive=True), shape=(4, 3, 4), box=((0, 4), (0, 3), (0, 4)))
    assert not (tmp_path / "a.b2nd").exists()


def test_a_kill_in_between_leaves_no_file(tmp_path: Path) -> None:
    code = f"""
import os
import numpy as np
from pathlib import Path
from autoseg.core.geometry import Orientation
from autoseg.core.labels import LabelScheme
from autoseg.io.probability_file import ProbabilityFile
with ProbabilityFile(
    Path({str(tmp_path / "a.b2nd")!r}),
    scheme=LabelScheme(declared={{"region 0": (1, 99), "background": 0}}, regions_class_order=(1,)),
    shape=(99, 3, 4),
    box=((0, 99), (0, 3), (0, 4)), orientation=Orientation(axes=(0, 1, 2), flipped=(False,) * 3),
) as file:
    file.add(np.ones((1, 70, 3, 4), dtype=np.float32))
    os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 9, done.stderr
    assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    inside = draw(1, (99, 3, 4), exclusive=False)
    write(tmp_path / "a.b2nd", inside, shape=(99, 3, 4), box=((0, 99), (0, 3), (0, 4)), exclusive=False)
    check(tmp_path / "a.b2nd", inside)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.b2nd"
    inside = draw(3, (12, 9, 11), exclusive=True)
    write(path, inside, shape=(12, 9, 11), box=((0, 12), (0, 9), (0, 11)))
    return path


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        _ = open_probabilities(path).probabilities
    assert str(path) in str(caught.value)
    assert "--save_probabilities" in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_cut_off_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    cut = whole.with_name("cut.b2nd")
    for length in (*range(0, len(content), 61), len(content) - 1):
        cut.write_bytes(content[:length])
        assert "is no intact file" in refused(cut)


def test_a_file_without_its_beginning_or_end_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    damaged = whole.with_name("damaged.b2nd")
    for broken in (bytes(100) + content[100:], content[: len(content) // 2] + bytes(len(content) // 2), content[1:]):
        damaged.write_bytes(broken)
        refused(damaged)


DAMAGE = """
import resource, sys
from pathlib import Path
from autoseg.core.errors import DataError
from autoseg.io.probability_file import open_probabilities

whole, path = Path(sys.argv[1]), Path(sys.argv[2])
content = whole.read_bytes()
assert open_probabilities(whole).scheme.n_outputs == 3
# a damaged size must not fill the machine
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
refused = 0
for at in (*range(400), *range(400, len(content) - 400, 37), *range(len(content) - 400, len(content))):
    path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
    try:
        open_probabilities(path).probabilities  # not all of the bytes matter
    except DataError:
        refused += 1
    except BaseException as error:
        sys.exit(f"byte {at}: {error!r}")
print(refused)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_a_damaged_byte_is_a_data_error_or_none(whole: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, str(whole), str(whole.with_name("damaged.b2nd"))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from autoseg.core.geometry import Orientation
from autoseg.core.labels import LabelScheme
from autoseg.io.probability_file import ProbabilityFile

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
noise = np.random.default_rng(0).random((1, 64, 64, 64)).astype(np.float32)  # cannot be compressed
try:
    with ProbabilityFile(
        Path(sys.argv[1]), scheme=LabelScheme(declared={"a": (1, 2)}, regions_class_order=(1,)),
        shape=(64, 64, 64), box=((0, 64),) * 3,
        orientation=Orientation(axes=(0, 1, 2), flipped=(False,) * 3),
    ) as file:
        for row in range(0, 64, 16):
            file.add(noise[:, row : row + 16])
except OSError as error:
    print(error.filename)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
@pytest.mark.parametrize(
    "limit",
    [
        0,
        1000,
        20_000,
        200_000,
    ],
)
def test_a_full_disk_is_an_oserror_and_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.b2nd"
    code = [sys.executable, "-c", FULL, str(path), str(limit)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert not [*tmp_path.iterdir()]
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}\n"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b" + bytes(300), b'{"outputs": []}'])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.b2nd").write_bytes(content)
    assert "is no intact file" in refused(tmp_path / "a.b2nd")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.b2nd")
    (tmp_path / "folder.b2nd").mkdir()
    refused(tmp_path / "folder.b2nd")


def test_arrays_of_others_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "plain.b2nd")
    plain = blosc2.asarray(np.arange(12.0).reshape(3, 4), urlpath=path, mode="w")
    assert "is no intact file" in refused(Path(path))
    blosc2.SChunk(data=b"abc" * 100, urlpath=str(tmp_path / "bytes.b2nd"), mode="w")
    refused(tmp_path / "bytes.b2nd")
    strange = blosc2.asarray(np.zeros((1, 2, 2, 2), np.uint8), urlpath=str(tmp_path / "strange.b2nd"), mode="w")
    strange.schunk.vlmeta["autoseg"] = ["outputs", "levels"]
    refused(tmp_path / "strange.b2nd")
    strange.schunk.vlmeta["autoseg"] = {"outputs": ["a"]}
    refused(tmp_path / "strange.b2nd")
    # an array that is an expression, which Blosc2 would compute on reading
    (plain + 1).save(urlpath=str(tmp_path / "lazy.b2nd"))
    refused(tmp_path / "lazy.b2nd")
